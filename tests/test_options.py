"""A stage's flags follow from its config dataclass."""

import argparse
from dataclasses import dataclass, field
from typing import Any

import pytest

from rrise.options import add_options, read_options


@dataclass(frozen=True)
class Config:
    sigma: float = field(default=0.25, metadata={"help": "noise level, 50% of nothing"})
    batch_size: int = field(default=10, metadata={"help": "images"})
    name: str = field(default="", metadata={"help": "a name"})
    fast: bool = field(default=False, metadata={"help": "skip checks"})
    lr: tuple[float, ...] = field(default=(0.1, 0.2), metadata={"help": "learning rates"})
    options: dict[str, Any] = field(default_factory=lambda: {"depth": 2}, metadata={"help": "of the network"})

    def __post_init__(self) -> None:
        if self.sigma <= 0:
            raise ValueError(f"sigma: expected > 0, got {self.sigma}.")


def parse(*flags: str, prefix: str = "") -> Config:
    parser = argparse.ArgumentParser()
    add_options(parser, Config, prefix)
    return read_options(parser.parse_args(flags), Config, prefix)


def test_defaults_are_the_dataclass_own() -> None:
    assert parse() == Config()


def test_every_kind_of_value() -> None:
    flags = ["--sigma", "0.5", "--batch-size", "3", "--name", "a", "--fast", "--lr", "1", "2", "3"]
    assert parse(*flags, "--options", '{"a": 1}') == Config(0.5, 3, "a", True, (1.0, 2.0, 3.0), {"a": 1})


def test_prefixed_flags() -> None:
    assert parse("--data.batch-size", "7", prefix="data.") == Config(batch_size=7)


def test_help_shows_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--help")
    text = capsys.readouterr().out
    assert "50% of nothing (default: 0.25)" in " ".join(text.split())
    assert "(default: none)" in text


@pytest.mark.parametrize("flags", [["--sigma", "x"], ["--options", "[1]"], ["--options", "{"], ["--unknown", "1"]])
def test_wrong_usage_exits_2(flags: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(*flags)
    assert stop.value.code == 2


def test_a_default_that_other_flags_decide(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_options(parser, Config, later={"batch_size": "10, or 7 if fast"})
    assert parser.parse_args([]).batch_size is None
    assert parser.parse_args(["--batch-size", "3"]).batch_size == 3
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    assert "images (default: 10, or 7 if fast)" in " ".join(capsys.readouterr().out.split())


def test_the_config_checks_values() -> None:
    with pytest.raises(ValueError, match="sigma: expected > 0"):
        parse("--sigma", "-1")
