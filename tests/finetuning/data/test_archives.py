"""Zip and tar files as data sets: unpacked safely, once."""

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import datasets.config
import pytest

from resnet_hub.errors import DataError
from resnet_hub.finetuning.config.options import FinetuneConfig
from resnet_hub.finetuning.data.load import ImageData, load_data
from tests.finetuning.image_files import encoded, picture


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def load(place: Path, **options: object) -> ImageData:
    return load_data(FinetuneConfig(dataset_name=str(place), **options))  # pyright: ignore[reportArgumentType]


def pets(prefix: str = "", *, first_seed: int = 0) -> dict[str, bytes]:
    """Names and bytes of ten images of each of two classes."""
    return {
        f"{prefix}{name}/{number}.jpg": encoded(picture(seed=first_seed + 10 * place + number), "JPEG")
        for place, name in enumerate(("cat", "dog"))
        for number in range(10)
    }


def zipped(file: Path, members: dict[str, bytes]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file


@pytest.mark.parametrize("prefix", ["", "pets/", "data/pets/"])
def test_class_folders_in_a_zip_are_a_data_set(tmp_path: Path, prefix: str):
    file = zipped(tmp_path / "in" / "pets.zip", pets(prefix) | {"__MACOSX/._0.jpg": b"x", "LICENSE": b"MIT"})
    for place in (file, file.parent):
        data = load(place)
        assert data.dataset == "pets"
        assert data.class_names == ("cat", "dog")
        assert sum(len(split) for split in data.splits.values()) == 20
        assert any("2 files of pets.zip" in note for note in data.facts.notes)


def test_splits_and_tables_in_a_zip_are_found(tmp_path: Path):
    splits = zipped(tmp_path / "a.zip", pets("train/") | pets("test/", first_seed=50))
    assert len(load(splits).test) == 20
    rows = "".join(f"cat/{n}.jpg,{'ab'[n % 2]}\ndog/{n}.jpg,{'ab'[n % 2]}\n" for n in range(10))
    table = zipped(tmp_path / "b.zip", pets() | {"labels.csv": f"image,label\n{rows}".encode()})
    assert load(table).class_names == ("a", "b")


def test_zip_files_named_like_splits_are_the_splits(tmp_path: Path):
    zipped(tmp_path / "in" / "train.zip", pets("train/"))
    zipped(tmp_path / "in" / "test.zip", pets(first_seed=50))
    data = load(tmp_path / "in")
    assert len(data.test) == 20
    assert len(data.train) + len(data.validation) == 20
    zipped(tmp_path / "in" / "more.zip", pets())
    with pytest.raises(DataError, match="3 archives that are not named like splits"):
        load(tmp_path / "in")


def test_an_archive_is_unpacked_once(tmp_path: Path, cache: Path):
    file = zipped(tmp_path / "pets.zip", pets())
    first = load(file)
    (unpacked,) = cache.glob("resnet_hub_archives/*/pets")
    before = {path: path.stat().st_mtime_ns for path in unpacked.rglob("*.jpg")}
    assert load(file).fingerprint == first.fingerprint
    assert {path: path.stat().st_mtime_ns for path in unpacked.rglob("*.jpg")} == before


@pytest.mark.parametrize(
    "name", ["../evil.jpg", "/elsewhere/evil.jpg", "a/../../evil.jpg", "..\\evil.jpg", "C:\\evil.jpg"]
)
def test_an_archive_that_names_a_place_outside_is_refused(tmp_path: Path, cache: Path, name: str):
    file = zipped(tmp_path / "pets.zip", pets() | {name: encoded(picture())})
    with pytest.raises(DataError, match="a place outside"):
        load(file)
    assert not list(tmp_path.rglob("evil*"))


def test_a_link_in_an_archive_is_not_made(tmp_path: Path, cache: Path):
    file = zipped(tmp_path / "pets.zip", pets())
    with zipfile.ZipFile(file, "a") as archive:
        link = zipfile.ZipInfo("cat/link.jpg")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/hostname")
    assert sum(len(split) for split in load(file).splits.values()) == 20
    assert not list(cache.rglob("link.jpg"))


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, cache: Path):
    file = zipped(tmp_path / "pets.zip", pets() | {"cat/big.bmp": b"\0" * (1 << 20)})
    with zipfile.ZipFile(file) as archive:
        (big,) = [member for member in archive.infolist() if member.filename == "cat/big.bmp"]
    data = bytearray(file.read_bytes())
    place = data.rindex(b"cat/big.bmp") - 46 + 24  # its size in the directory at the end
    data[place : place + 4] = (3 << 30).to_bytes(4, "little")
    file.write_bytes(data)
    assert big.file_size == 1 << 20
    with pytest.raises(DataError, match="more than images ever do"):
        load(file)
    assert not list(cache.rglob("*.bmp"))


@pytest.mark.parametrize("name", ["pets.zip", "pets.tar", "pets.tar.gz", "pets.tgz"])
def test_a_damaged_archive_is_refused_by_its_name(tmp_path: Path, name: str):
    file = tmp_path / name
    file.write_bytes(b"PK no archive" * 100)
    with pytest.raises(DataError, match=name):
        load(file)


def test_a_zip_with_two_files_of_one_name_is_refused(tmp_path: Path):
    file = zipped(tmp_path / "pets.zip", pets())
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("cat/0.jpg", encoded(picture(seed=77)))
    with pytest.raises(DataError, match="cannot be unpacked"):
        load(file)


TARS = {
    "pets.tar": "w",
    "pets.tar.gz": "w:gz",
    "pets.tgz": "w:gz",
    "pets.tar.bz2": "w:bz2",
    "pets.txz": "w:xz",
}


def tarred(file: Path, members: dict[str, bytes], *links: tarfile.TarInfo) -> Path:
    with tarfile.open(file, TARS.get(file.name, "w")) as archive:  # pyright: ignore[reportCallIssue,reportArgumentType]
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for link in links:
            archive.addfile(link)
    return file


@pytest.mark.parametrize("name", TARS)
def test_a_tar_file_of_a_web_dataset_is_a_data_set(tmp_path: Path, name: str):
    members = {}
    for n in range(20):
        members |= {f"{n}.jpg": encoded(picture(seed=n), "JPEG"), f"{n}.cls": str(n % 2).encode()}
    data = load(tarred(tmp_path / name, members))
    assert data.class_names == ("0", "1")
    assert sum(len(split) for split in data.splits.values()) == 20


@pytest.mark.parametrize("name", TARS)
def test_class_folders_in_a_tar_file_are_a_data_set(tmp_path: Path, name: str):
    (tmp_path / "in").mkdir()
    file = tarred(tmp_path / "in" / name, pets("./pets/") | {"pets/README.md": b"x"})
    for place in (file, file.parent):
        data = load(place)
        assert data.dataset == "pets"
        assert data.class_names == ("cat", "dog")
        assert any(f"1 files of {name}" in note for note in data.facts.notes)


def test_no_link_in_a_tar_file_is_made_and_no_place_outside_written(tmp_path: Path, cache: Path):
    links = [
        tarfile.TarInfo("cat/soft.jpg"),
        tarfile.TarInfo("cat/hard.jpg"),
        tarfile.TarInfo("cat/pipe.jpg"),
    ]
    for link, kind in zip(links, (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE), strict=True):
        link.type, link.linkname = kind, "/etc/hostname"
    data = load(tarred(tmp_path / "pets.tar.gz", pets(), *links))
    assert sum(len(split) for split in data.splits.values()) == 20
    assert not [*cache.rglob("soft.jpg"), *cache.rglob("hard.jpg"), *cache.rglob("pipe.jpg")]
    for number, name in enumerate(("../evil.jpg", "/elsewhere/evil.jpg", "a/../../evil.jpg")):
        with pytest.raises(DataError, match="a place outside"):
            load(tarred(tmp_path / f"bad{number}.tar", pets() | {name: b"x"}))
    assert not list(tmp_path.rglob("evil*"))


def test_an_archive_beside_the_table_of_its_images_is_named(tmp_path: Path):
    zipped(tmp_path / "in" / "train.zip", pets())
    (tmp_path / "in" / "train.csv").write_text("image,label\ncat/0.jpg,a\n")
    with pytest.raises(DataError, match=r"table train.csv and the images in train.zip.*Unpack"):
        load(tmp_path / "in")


def test_an_archive_without_images_is_refused_by_its_name(tmp_path: Path):
    with pytest.raises(DataError, match=r"x.tar holds neither images nor tables"):
        load(tarred(tmp_path / "x.tar", {"README.md": b"x"}))
