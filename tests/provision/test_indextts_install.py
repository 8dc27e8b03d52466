"""IndexTTS2 is installed whole or is not taken for installed: real Git, a real interpreter, the real clients on loopback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from steadyvoice.provision import hardware, indextts_checkout, indextts_install
from steadyvoice.provision.download.hub import FetchError
from steadyvoice.provision.indextts_checkout import MARKER, NotUsable, find_checkout, weights_problem
from steadyvoice.provision.indextts_install import InstallError, accept_licence, install, main
from steadyvoice.provision.release_files import MANIFEST
from steadyvoice.settings import PREFIX, Settings
from tests.provision.fake_checkout import put
from tests.provision.loopback_hub import LoopbackHub

GPT = "IndexTeam/IndexTTS-2/gpt.pth"
QWEN = ("config.json", "model.safetensors", "tokenizer/vocab.json")
UPSTREAM = {
    **{
        f"IndexTeam/IndexTTS-2/{name}": os.urandom(2_000)
        for name in (*indextts_checkout.MAIN.files, "README.md", "examples/a.wav")
    },
    **{f"IndexTeam/IndexTTS-2/qwen0.6bemo4-merge/{name}": os.urandom(1_000) for name in QWEN},
    **{
        f"AI-ModelScope/w2v-bert-2.0/{name}": os.urandom(500) for name in (*indextts_checkout.W2V_BERT.files, "conformer_shaw.pt")
    },
    **{f"nvidia/bigvgan_v2_22khz_80band_256x/{name}": os.urandom(400) for name in indextts_checkout.BIGVGAN.files},
    "iic/speech_campplus_sv_zh-cn_16k-common/campplus_cn_common.bin": os.urandom(300),
    "amphion/MaskGCT/semantic_codec/model.safetensors": os.urandom(200),
    "amphion/MaskGCT/t2s_model/model.safetensors": os.urandom(200),
}
# Stands in for uv: makes the environment that it is asked for, and notes that it was.
UV = f"""#!/bin/sh
[ -z "$PYTHONPATH$UV_PROJECT_ENVIRONMENT" ] || exit 8
echo "$@" >> uv.calls
[ ! -e "$0.broken" ] || {{ echo "no matching distribution" >&2; exit 7; }}
exec "{sys.executable}" -m venv --without-pip .venv
"""
# Stands in for an older Python on a machine that has no uv; the checkout brings a `pip` of its own.
PYTHON = f"""#!/bin/sh
[ "$1" = -c ] || set -- -m venv --without-pip .venv
exec "{sys.executable}" "$@"
"""
PIP = "import sys\nopen('pip.calls', 'a').write(' '.join(sys.argv[1:]))\n"


@pytest.fixture
def server() -> Iterator[LoopbackHub]:
    with LoopbackHub({}, others=dict(UPSTREAM)) as running:
        yield running


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder that is searched for programs before all others; it has a uv."""
    return executable(tmp_path / "bin" / "uv", UV).parent


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "upstream"
    put(folder / "indextts", "__init__.py", "infer_v2.py", content=b"raise AssertionError('it must not be imported')\n")
    put(folder / "checkpoints", "config.yaml", "pinyin.vocab", content=b"of the repository\n")
    (folder / "pip.py").write_text(PIP)
    mine = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    for arguments in (["init", "--quiet"], ["add", "."], [*mine, "commit", "--quiet", "--message", "all"]):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    return folder


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, server: LoopbackHub, programs: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the user's, a large card, and every address on this machine."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    for name, value in {**server.environment, "HOME": str(tmp_path), "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "0"}.items():
        monkeypatch.setenv(name, value)
    for name in ("PYTHONPATH", "UV_PROJECT_ENVIRONMENT"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere"))
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(indextts_install, "REPOSITORY", f"file://{repository}")
    monkeypatch.setattr(hardware, "gpus", lambda: [hardware.Gpu("a card", "570.10", 24_000_000_000, 24_000_000_000)])
    monkeypatch.setattr(hardware, "ram_bytes", lambda: (32_000_000_000, 32_000_000_000))
    monkeypatch.setattr(indextts_install, "NEEDED_DISK", 1e6)


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def settings(tmp_path: Path, **fields: object) -> Settings:
    return Settings(_env_file=None, cache_hub=tmp_path / "cache hub", **fields)  # type: ignore[call-arg, arg-type]


def whole(tmp_path: Path) -> Path:
    """The installation, after a look at what it has."""
    checkout = find_checkout(settings(tmp_path))
    assert weights_problem(checkout, qwen=True) is None
    assert (checkout.checkpoints / "gpt.pth").read_bytes() == UPSTREAM[GPT]
    assert not list(checkout.root.rglob("*.part"))
    return checkout.root


def not_taken(tmp_path: Path) -> None:
    """What is there is not chosen."""
    with pytest.raises(NotUsable):
        find_checkout(settings(tmp_path))


def test_it_is_installed_whole_and_found_and_a_second_call_has_nothing_to_do(tmp_path: Path, server: LoopbackHub) -> None:
    install(settings(tmp_path))

    root = whole(tmp_path)
    assert (root / MARKER).read_text().startswith("bilibili Model Use License, accepted 20")
    assert (root / "uv.calls").read_text() == "sync --python >=3.10,<3.12\n"
    assert not (tmp_path / "cache hub" / ".index-tts.part").exists()
    hf_cache = root / "checkpoints" / "hf_cache"
    for folder in (root / "checkpoints", hf_cache / "w2v-bert-2.0", hf_cache / "bigvgan", hf_cache / "campplus"):
        assert (folder / MANIFEST).is_file()
    for name in QWEN:
        assert (root / "checkpoints" / "qwen0.6bemo4-merge" / name).is_file()
    assert (root / "checkpoints" / "config.yaml").read_bytes() == UPSTREAM["IndexTeam/IndexTTS-2/config.yaml"]
    assert (root / "checkpoints" / "pinyin.vocab").read_text() == "of the repository\n"
    unwanted = {
        "IndexTeam/IndexTTS-2/README.md",
        "IndexTeam/IndexTTS-2/examples/a.wav",
        "amphion/MaskGCT/t2s_model/model.safetensors",
    }
    assert set(server.sent) == set(UPSTREAM) - unwanted - {"AI-ModelScope/w2v-bert-2.0/conformer_shaw.pt"}
    asked = len(server.asked)

    install(settings(tmp_path))

    assert len(server.asked) == asked
    assert len((root / "uv.calls").read_text().splitlines()) == 1


def test_hugging_face_gives_the_same(tmp_path: Path, server: LoopbackHub) -> None:
    for mine, theirs in (
        ("AI-ModelScope/w2v-bert-2.0/", "facebook/w2v-bert-2.0/"),
        ("iic/speech_campplus_sv_zh-cn_16k-common/", "funasr/campplus/"),
    ):
        for key in [key for key in server.others if key.startswith(mine)]:
            server.others[theirs + key.removeprefix(mine)] = server.others.pop(key)

    code = (
        "import sys; from tests.provision import test_indextts_install as test; test.from_hugging_face(sys.argv[1], sys.argv[2])"
    )
    # Its client reads the address when it is imported, which another test may have done long ago.
    subprocess.run([sys.executable, "-c", code, str(tmp_path), indextts_install.REPOSITORY], check=True, timeout=60)

    whole(tmp_path)


def from_hugging_face(folder: str, repository: str) -> None:
    """In a process of its own."""
    indextts_install.REPOSITORY = repository
    indextts_install.NEEDED_DISK = 1e6
    hardware.gpus = lambda: [hardware.Gpu("a card", "570.10", 24_000_000_000, 24_000_000_000)]
    install(settings(Path(folder), hub="huggingface"))


def test_without_room_for_qwen_it_is_not_fetched_and_comes_when_there_is(
    tmp_path: Path, server: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as small:
        small.setattr(hardware, "gpus", lambda: [hardware.Gpu("a card", "570.10", 6_400_000_000, 6_400_000_000)])
        install(settings(tmp_path))
    assert not indextts_checkout.has_qwen(find_checkout(settings(tmp_path)))

    install(settings(tmp_path))

    whole(tmp_path)
    assert server.sent[GPT] == len(UPSTREAM[GPT]), "what was there did not come again"


def test_a_download_that_is_cut_is_kept_and_the_next_call_goes_on(tmp_path: Path, server: LoopbackHub) -> None:
    server.statuses["nvidia/bigvgan_v2_22khz_80band_256x/bigvgan_generator.pt"] = 404
    with pytest.raises(FetchError, match=r"^bigvgan_generator.pt did not come from ModelScope .* it answers 404"):
        install(settings(tmp_path))
    not_taken(tmp_path)
    server.statuses.clear()

    install(settings(tmp_path))

    whole(tmp_path)
    assert server.sent[GPT] == len(UPSTREAM[GPT]), "what had come did not come again"


def test_what_was_damaged_since_is_mended(tmp_path: Path, server: LoopbackHub) -> None:
    install(settings(tmp_path))
    root = whole(tmp_path)
    os.truncate(root / "checkpoints" / "gpt.pth", 10)
    shutil.rmtree(root / ".venv")
    not_taken(tmp_path)

    install(settings(tmp_path))

    whole(tmp_path)
    assert len(server.downloads(GPT)) == 2
    assert len((root / "uv.calls").read_text().splitlines()) == 2


def test_an_environment_that_could_not_be_made_is_said_and_made_by_the_next_call(
    tmp_path: Path, programs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (programs / "uv.broken").touch()
    with pytest.raises(InstallError, match=r"^the environment could not be made: uv ended with status 7 and says why above$"):
        install(settings(tmp_path))
    assert "no matching distribution" in capfd.readouterr().err
    not_taken(tmp_path)
    (programs / "uv.broken").unlink()

    install(settings(tmp_path))

    whole(tmp_path)


def test_without_uv_pip_installs_it_under_a_python_that_fits(
    tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_uv(programs, monkeypatch)
    executable(programs / "python3.11", PYTHON)

    install(settings(tmp_path))

    assert (whole(tmp_path) / "pip.calls").read_text() == "install --disable-pip-version-check --editable ."


def test_without_uv_and_a_python_that_fits_nothing_is_begun(
    tmp_path: Path, programs: Path, server: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_uv(programs, monkeypatch)
    monkeypatch.setattr(indextts_install, "PYTHONS", ("python3.11",))
    executable(programs / "python3.11", "#!/bin/sh\nexit 1\n")

    with pytest.raises(InstallError, match=r"is for Python 3\.10 and 3\.11, and neither is here, nor is uv"):
        install(settings(tmp_path))
    assert server.asked == []


def without_uv(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where this machine has one."""
    (programs / "uv").unlink()
    found = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "uv" else found(name))


def test_without_git_nothing_is_begun(tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(programs))

    with pytest.raises(InstallError, match=r"^git is not installed"):
        install(settings(tmp_path))


def test_a_repository_that_is_not_reached_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indextts_install, "REPOSITORY", f"file://{tmp_path}/nowhere")

    with pytest.raises(InstallError, match=r"nowhere could not be cloned: git ended with status 128 and says why above$"):
        install(settings(tmp_path))

    assert [path.name for path in (tmp_path / "cache hub").iterdir()] == [".index-tts.lock"]


def test_a_clone_that_was_cut_short_leaves_nothing_behind(tmp_path: Path, programs: Path) -> None:
    executable(programs / "git", '#!/bin/sh\nfor last; do :; done\nmkdir -p "$last/indextts"\nkill -KILL $$\n')

    with pytest.raises(InstallError, match="could not be cloned: git ended with status -9"):
        install(settings(tmp_path))

    assert [path.name for path in (tmp_path / "cache hub").iterdir()] == [".index-tts.lock"]


def test_a_folder_of_somebody_else_s_is_left_alone(tmp_path: Path) -> None:
    put(tmp_path / "cache hub" / "index-tts", "mine.txt")

    with pytest.raises(InstallError, match=r"is no checkout of index-tts, and this program did not put it there: remove it$"):
        install(settings(tmp_path))

    assert (tmp_path / "cache hub" / "index-tts" / "mine.txt").is_file()


def test_too_little_disk_is_said_before_anything_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indextts_install, "NEEDED_DISK", 20e9)
    monkeypatch.setattr(hardware, "free_disk_bytes", lambda folder: 12_300_000_000)

    with pytest.raises(InstallError, match=r"needs 20 GB of free disk at .*, 12\.3 GB are free: make room"):
        install(settings(tmp_path))


def test_a_machine_that_is_too_small_is_told_before_anything_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "ram_bytes", lambda: (4_000_000_000, 4_000_000_000))

    with pytest.raises(NotUsable, match=r"needs 8\.0 GB of RAM"):
        install(settings(tmp_path))
    assert not (tmp_path / "cache hub").exists()


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"hub": "none"}, "HUB=none"), ({"indextts_python": Path("/x")}, "INDEXTTS_PYTHON names an installation")],
)
def test_who_wants_nothing_fetched_gets_nothing(tmp_path: Path, fields: dict[str, object], said: str) -> None:
    with pytest.raises(InstallError, match=said):
        install(settings(tmp_path, **fields))


# The licence


class Terminal:
    """A standard input that somebody sits at."""

    def __init__(self, answer: str) -> None:
        self.answer = answer

    def isatty(self) -> bool:
        return True

    def readline(self) -> str:
        return self.answer


def test_the_licence_is_named_with_where_to_read_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    accept_licence(settings(tmp_path), accepted=True)

    said = capsys.readouterr().err
    assert "bilibili Model Use License, which is not open source" in said
    assert "https://github.com/index-tts/index-tts" in said


@pytest.mark.parametrize("answer", ["\n", "n\n", "perhaps\n"])
def test_without_a_yes_nothing_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    with pytest.raises(InstallError, match=r"^the licence was not accepted, and nothing was installed$"):
        accept_licence(settings(tmp_path), accepted=False)


@pytest.mark.parametrize("answer", ["y\n", "YES\n"])
def test_a_yes_on_the_terminal_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    accept_licence(settings(tmp_path), accepted=False)


def test_a_licence_that_was_accepted_is_not_asked_for_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "cache hub" / "index-tts", MARKER)

    accept_licence(settings(tmp_path), accepted=False)

    assert capsys.readouterr().err == ""


def test_without_a_terminal_and_the_flag_it_stops_with_one_sentence_and_status_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "steadyvoice.provision.indextts_install"]
    environment = {**os.environ, f"{PREFIX}CACHE_HUB": str(tmp_path / "cache")}
    finished = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)

    assert finished.returncode == 2
    assert finished.stderr.splitlines()[-1] == "indextts: the licence has to be accepted: read it, then add --accept-licence"
    assert not (tmp_path / "cache").exists()


def test_what_stands_in_the_way_is_one_sentence_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["indextts_install", "--accept-licence"])
    monkeypatch.setattr(indextts_install.signal, "signal", lambda *_: None)
    monkeypatch.setattr(indextts_install, "prepare_clients", lambda: None)
    monkeypatch.setenv(f"{PREFIX}CACHE_HUB", str(tmp_path / "cache hub"))
    monkeypatch.setenv(f"{PREFIX}HUB", "none")

    assert main() == 2

    assert capsys.readouterr().err.splitlines()[-1] == (
        "indextts: STEADYVOICE_HUB=none fetches nothing: set it to modelscope or huggingface"
    )
