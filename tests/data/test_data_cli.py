from __future__ import annotations

import pytest

from lskd.data.cli import main


@pytest.fixture
def roots(tiny, tmp_path) -> list[str]:
    return ["--data", str(tiny), "--cache", str(tmp_path / "cache")]


def test_prepare_verify_list(roots, tmp_path, capsys) -> None:
    assert main(["prepare", "tiny", *roots]) == 0
    assert capsys.readouterr().out == "tiny: 3 classes, 3x6x5, 30 train, 9 test: ok\n"
    assert main(["verify", *roots]) == 0
    assert main(["list", *roots]) == 0
    out = capsys.readouterr().out
    assert "tiny: 3 classes, 3x6x5, 30 train, 9 test\n" in out
    assert (
        "60000 train, 10000 test (not prepared)\n  `lskd-data prepare mnist`: from $LSKD_DATA/mnist, else downloaded\n"
    ) in out
    assert "`lskd-data prepare imagenet`: put it, or a link to it, at $LSKD_DATA/imagenet: train/<class>/*.JPEG" in out


def test_a_home_in_paths(tiny, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["import", "mine", "~/raw/tiny", "--cache=~/cache", "--data=~/raw"]) == 0
    assert (tmp_path / "cache" / "data" / "mine").is_dir()
    assert main(["prepare", "tiny", "--cache=~/cache", "--data=~/raw"]) == 0


def test_import_of_parts_columns_and_splits(arrays, write_parquet, roots, tmp_path, capsys) -> None:
    write_parquet(tmp_path / "own", arrays, image="picture", label="kind", parts=("train", "validation", "test"))
    words = ["import", "own", str(tmp_path / "own"), *roots, "--image-column", "picture", "--label-column", "kind"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "own: 3 classes, 3x6x5, 30 train, 9 validation, 9 test\n" in out
    assert "lskd-run dataset=own dataset.evaluate=validation\n" in out
    write_parquet(tmp_path / "whole", arrays, parts=("train",))
    assert main(["import", "whole", str(tmp_path / "whole"), *roots, "--split", "0.2", "--seed", "3"]) == 0
    assert "whole: 3 classes, 3x6x5, 24 train, 6 test\n" in capsys.readouterr().out


def test_roots_come_from_the_environment(tiny, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("LSKD_DATA", str(tiny))
    monkeypatch.setenv("LSKD_CACHE", str(tmp_path / "elsewhere"))
    assert main(["prepare", "tiny"]) == 0
    assert (tmp_path / "elsewhere" / "data" / "tiny" / "meta.json").is_file()


def test_import_says_how_to_use_it(tiny, roots, capsys) -> None:
    assert main(["import", "mine", str(tiny / "tiny"), "--size", "4", *roots]) == 0
    assert capsys.readouterr().out == ("mine: 3 classes, 3x4x4, 30 train, 9 test\nuse it: lskd-run dataset=mine\n")
    assert main(["verify", "mine", *roots]) == 0


@pytest.mark.parametrize("command", [["prepare", "cifar11"], ["verify", "mnist"], ["import", "x", "no/such/folder"]])
def test_user_errors_exit_2_with_one_line(command, roots, capsys) -> None:
    assert main([*command, *roots]) == 2
    err = capsys.readouterr().err
    assert err.startswith("lskd-data: ") and err.count("\n") == 1


def test_one_bad_name_does_not_stop_the_others(roots, tmp_path, capsys) -> None:
    assert main(["prepare", "nope", "tiny", *roots]) == 2
    assert (tmp_path / "cache" / "data" / "tiny").is_dir()
    assert "lskd-data: dataset.name = 'nope': allowed: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [[], ["prepare"], ["fetch"], ["import", "x"], ["import", "x", "y", "--size", "big"]]
)
def test_usage_errors_exit_2(command) -> None:
    with pytest.raises(SystemExit) as caught:
        main(command)
    assert caught.value.code == 2


def test_help_shows_examples(capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "lskd-data prepare cifar10" in capsys.readouterr().out
