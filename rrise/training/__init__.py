"""The two networks: a base classifier trained under noise, and the surrogate of its smoothed class distribution.

``train_classifier`` trains, ``fit_surrogate`` fits to class counts, ``export_engine`` writes what is deployed. A
trained network is a folder of safetensors and JSON, made by ``save_network`` and verified by ``load_network``. The
modules that hold a stage's settings (``classifier``, ``surrogate``, ``export``) import without torch.
"""
