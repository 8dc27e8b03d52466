from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from steadyvoice.settings import PREFIX, ROOT, Settings, SettingsError, load_settings


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith(PREFIX):
            monkeypatch.delenv(name)


def given(monkeypatch: pytest.MonkeyPatch, **settings: str) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(PREFIX + name, value)


def env_file(folder: Path, text: str) -> Path:
    path = folder / ".env"
    path.write_text(text, encoding="utf-8")
    return path


def test_without_a_setting_everything_has_a_default() -> None:
    settings = load_settings(None)

    assert (settings.host, settings.asr_port, settings.tts_port) == ("127.0.0.1", 6006, 7860)
    assert (settings.queue_size, settings.concurrency) == (None, None)
    assert settings.cache_hub == ROOT / "cache_hub"
    assert settings.batch_size_s >= settings.max_segment_s


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_says_when_to_change_it(name: str) -> None:
    assert Settings.model_fields[name].description


def test_each_kind_of_value_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, HOST="0.0.0.0", ASR_PORT="7000", PRELOAD="true", QUEUE_SIZE="0", MAX_UPLOAD_MB="0.5", LOG_LEVEL="debug")

    settings = load_settings(None)

    assert (settings.host, settings.asr_port, settings.preload, settings.queue_size) == ("0.0.0.0", 7000, True, 0)
    assert (settings.max_upload_bytes, settings.log_level) == (500_000, "debug")


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    given(
        monkeypatch,
        ALLOWED_HOSTS="Speech.lan, *.example.com,",
        CORS_ORIGINS="https://a.example",
        TRUSTED_PROXIES="10.0.0.0/8,::1",
    )

    settings = load_settings(None)

    assert settings.allowed_hosts == ("speech.lan", "*.example.com")
    assert settings.cors_origins == ("https://a.example",)
    assert settings.trusted_proxies == ("10.0.0.0/8", "::1/128")


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("ASR_PORT", "0", "greater than or equal to 1"),
        ("ALLOWED_HOSTS", "https://example.com", "without scheme and port"),
        ("CORS_ORIGINS", "example.com", "scheme, host and port only"),
        ("CORS_ORIGINS", "https://example.com/app", "scheme, host and port only"),
        ("CORS_ORIGINS", "https://*.example.com", "scheme, host and port only"),
        ("TRUSTED_PROXIES", "proxy.lan", "neither an address nor a network"),
        ("TRUSTED_PROXIES", "10.0.0.1/8", "host bits set"),
        ("TTS_PORT", "65536", "less than or equal to 65535"),
        ("ASR_PORT", "http", "valid integer"),
        ("ASR_PORT", "6006.5", "valid integer"),
        ("ASR_ENGINE", "whisper", "'auto', 'sensevoice', 'funasr' or 'pocketsphinx'"),
        ("PRECISION", "int4", "'auto', 'fp32', 'bf16', 'fp16' or 'int8'"),
        ("HUB", "github", "'modelscope', 'huggingface' or 'none'"),
        ("TTS_ENGINE", "Espeak", "'auto', 'indextts2' or 'espeak'"),
        ("PRELOAD", "perhaps", "valid boolean"),
        ("QUEUE_SIZE", "-1", "greater than or equal to 0"),
        ("CONCURRENCY", "0", "greater than or equal to 1"),
        ("GPU_MEMORY_GB", "0", "greater than 0"),
        ("GPU_MEMORY_GB", "24GB", "valid number"),
        ("BATCH_SIZE_S", "0.5", "greater than or equal to 1"),
        ("MERGE_LENGTH_S", "-1", "greater than or equal to 0"),
        ("MAX_SEGMENT_S", "601", "less than or equal to 600"),
        ("MAX_UPLOAD_MB", "0", "greater than 0"),
        ("MAX_STORED_MB", "0", "greater than 0"),
        ("MAX_AUDIO_S", "inf", "finite number"),
        ("MAX_TEXT_CHARS", "0", "greater than or equal to 1"),
        ("MAX_BACKLOG_S", "nan", "finite number"),
        ("REQUEST_TIMEOUT_S", "0", "greater than 0"),
        ("PROGRESS_TIMEOUT_S", "0", "greater than or equal to 0.1"),
        ("DRAIN_S", "-1", "greater than or equal to 0"),
        ("RESULT_CACHE_MB", "-1", "greater than or equal to 0"),
        ("LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
    ],
)
def test_a_bad_value_is_refused_with_its_name_itself_and_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, allowed: str
) -> None:
    given(monkeypatch, **{name: value})

    with pytest.raises(SettingsError) as refused:
        load_settings(None)

    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"{PREFIX}{name}={value!r}: ")
    assert allowed in line
    assert Settings.model_fields[name.lower()].description in line


def test_a_bad_value_in_the_file_is_refused_in_the_same_words(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^STEADYVOICE_ASR_PORT='0': .* greater than or equal to 1"):
        load_settings(env_file(tmp_path, "STEADYVOICE_ASR_PORT=0\n"))


def test_all_that_is_wrong_is_told_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given(monkeypatch, ASR_PORT="0", HOTS="x")

    with pytest.raises(SettingsError) as refused:
        load_settings(env_file(tmp_path, "STEADYVOICE_PRELOAD=perhaps\nSTEADYVOICE_ZZZ=1\n"))

    lines = str(refused.value).splitlines()
    assert sorted(line.split("=")[0].removeprefix(PREFIX) for line in lines) == ["ASR_PORT", "HOTS", "PRELOAD", "ZZZ"]


def test_a_batch_that_could_not_hold_one_segment_is_refused_naming_both(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, BATCH_SIZE_S="20")

    with pytest.raises(SettingsError, match=r"STEADYVOICE_BATCH_SIZE_S=20 .* STEADYVOICE_MAX_SEGMENT_S=30"):
        load_settings(None)

    given(monkeypatch, MAX_SEGMENT_S="20")
    assert load_settings(None).batch_size_s == 20


@pytest.mark.parametrize(
    ("name", "meant"), [("QUEUESIZE", "QUEUE_SIZE"), ("ASR_PROT", "ASR_PORT"), ("MAX_UPLOAD", "MAX_UPLOAD_MB"), ("HOTS", "HOST")]
)
def test_a_name_that_nobody_knows_is_refused_with_the_one_that_was_meant(
    monkeypatch: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    given(monkeypatch, **{name: "3"})

    with pytest.raises(SettingsError, match=f"^{PREFIX}{name}='3': no such setting; did you mean {PREFIX}{meant}\\?$"):
        load_settings(None)


def test_a_name_like_no_other_is_refused_with_all_that_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, QQQQ="3")

    with pytest.raises(SettingsError, match="no such setting; known: ") as refused:
        load_settings(None)
    assert all(name.upper() in str(refused.value) for name in Settings.model_fields)


@pytest.mark.parametrize(
    ("service", "variables"),
    [
        (
            "steadyvoice-asr",
            {
                "ASR_PORT": "tcp://10.0.0.1:6006",
                "ASR_PORT_6006_TCP": "tcp://10.0.0.1:6006",
                "ASR_PORT_6006_TCP_ADDR": "10.0.0.1",
                "ASR_PORT_6006_TCP_PORT": "6006",
                "ASR_PORT_6006_TCP_PROTO": "tcp",
                "ASR_SERVICE_HOST": "10.0.0.1",
                "ASR_SERVICE_PORT": "6006",
                "ASR_SERVICE_PORT_HTTP": "6006",
            },
        ),
        ("steadyvoice-tts", {"TTS_PORT": "tcp://[fd00::1]:7860"}),
        ("steadyvoice", {"PORT": "tcp://10.0.0.1:80", "SERVICE_HOST": "10.0.0.1"}),
        ("steadyvoice-speech-api", {"SPEECH_API_SERVICE_PORT": "80"}),
    ],
)
def test_what_kubernetes_injects_is_told_as_that_once_for_each_service(
    monkeypatch: pytest.MonkeyPatch, service: str, variables: dict[str, str]
) -> None:
    given(monkeypatch, **variables)

    with pytest.raises(SettingsError) as refused:
        load_settings(None)

    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"{PREFIX}{min(variables)}={variables[min(variables)]!r}: Kubernetes ")
    assert f"Service named {service};" in line
    assert "enableServiceLinks: false" in line


def test_a_port_that_is_only_wrong_is_not_blamed_on_kubernetes(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, ASR_PORT="http://10.0.0.1")

    with pytest.raises(SettingsError, match="valid integer"):
        load_settings(None)


def test_a_name_without_the_prefix_is_nobodys_business(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ASR_PORT", "1")
    monkeypatch.setenv("HOST", "example.com")

    assert load_settings(env_file(tmp_path, "OTHER_PROGRAM=1\nASR_PORT=2\n")) == load_settings(None)


def test_the_file_lies_beneath_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given(monkeypatch, ASR_PORT="7001")

    settings = load_settings(env_file(tmp_path, "STEADYVOICE_ASR_PORT=7002\nSTEADYVOICE_TTS_PORT=7003\n"))

    assert (settings.asr_port, settings.tts_port) == (7001, 7003)


@pytest.mark.parametrize("name", ["QUEUE_SIZE", "ASR_PORT", "PRELOAD", "CACHE_HUB", "LOG_LEVEL", "QQQQ"])
def test_an_empty_value_is_as_if_it_were_not_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    given(monkeypatch, **{name: ""})

    assert load_settings(env_file(tmp_path, f"{PREFIX}{name}=\n")) == load_settings(None) == Settings()


def test_an_empty_value_in_the_environment_leaves_the_choice_to_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given(monkeypatch, ASR_PORT="")

    assert load_settings(env_file(tmp_path, "STEADYVOICE_ASR_PORT=7002\n")).asr_port == 7002


def test_a_file_that_is_not_there_is_no_settings(tmp_path: Path) -> None:
    assert load_settings(tmp_path / ".env") == load_settings(None)


def test_a_file_that_is_no_text_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_bytes(b"STEADYVOICE_HOST=\xff\xfe\n")

    with pytest.raises(SettingsError, match=r"\.env cannot be read"):
        load_settings(path)


def test_a_relative_folder_means_the_same_from_wherever_the_app_is_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given(monkeypatch, CACHE_HUB="weights")
    monkeypatch.chdir(tmp_path)
    assert load_settings(None).cache_hub == ROOT / "weights"

    given(monkeypatch, CACHE_HUB=str(tmp_path))
    assert load_settings(None).cache_hub == tmp_path


def test_the_interpreter_of_an_environment_stays_the_link_that_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    link = tmp_path / "python"
    link.symlink_to(sys.executable)
    given(monkeypatch, INDEXTTS_PYTHON=str(link))

    assert load_settings(None).indextts_python == link


def test_settings_cannot_be_changed_afterwards() -> None:
    settings = load_settings(None)

    with pytest.raises(ValidationError, match="frozen"):
        settings.asr_port = 1  # type: ignore[misc]
    assert settings.asr_port == 6006


def test_a_join_longer_than_the_cap_is_refused_and_the_default_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, MAX_SEGMENT_S="5")
    assert load_settings(None).default_merge_length_s == 5

    given(monkeypatch, MAX_SEGMENT_S="5", MERGE_LENGTH_S="6")
    with pytest.raises(SettingsError, match=r"MERGE_LENGTH_S=6 .*MAX_SEGMENT_S=5"):
        load_settings(None)


def test_stored_files_have_room_for_an_upload_and_by_default_for_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, MAX_UPLOAD_MB="50")
    assert load_settings(None).max_stored_bytes == 510_000_000
    given(monkeypatch, MAX_UPLOAD_MB="50", MAX_STORED_MB="51")
    assert load_settings(None).max_stored_bytes == 51_000_000
    given(monkeypatch, MAX_UPLOAD_MB="50", MAX_STORED_MB="50")
    with pytest.raises(SettingsError, match="MAX_STORED_MB=50 has no room for one upload of STEADYVOICE_MAX_UPLOAD_MB=50"):
        load_settings(None)
