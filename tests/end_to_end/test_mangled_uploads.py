"""Mangled uploads: no 5xx, no hang, no growth, and the process lives. The suite sends 300, `make mangled` 2,000."""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from steadyvoice.testing.running_apps import CLIPS, RunningApp, running
from tests.audio import FORMATS, as_format, clip

CALLERS = 4  # under the queue's limit, so that every upload is really looked at
GROWTH_BYTES = 60e6
NAMES = ("a.wav", "x.jsonl", "list.m3u8", "a.mp3", "../../etc/passwd", "a.scp", "http://127.0.0.1/a.wav", "\u200b.ogg", "a" * 300)


def mangle(data: bytes, rng: random.Random) -> bytes:
    """Break a good file in one of the ways in which files break or are broken."""
    broken = bytearray(data)
    match rng.randrange(7):
        case 0:  # the connection went away
            return bytes(broken[: rng.randrange(len(broken))])
        case 1:  # bits flipped anywhere
            for _ in range(rng.randrange(1, 40)):
                broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        case 2:  # a header that lies: sizes, rates, channels and lengths live in the first bytes
            for _ in range(rng.randrange(1, 8)):
                broken[rng.randrange(min(120, len(broken)))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        case 3:  # a piece cut out
            start = rng.randrange(len(broken))
            del broken[start : start + rng.randrange(1, 4_000)]
        case 4:  # a piece repeated
            start = rng.randrange(len(broken))
            broken[start:start] = broken[start : start + rng.randrange(1, 4_000)]
        case 5:  # noise in the middle
            start = rng.randrange(len(broken))
            broken[start : start + 500] = rng.randbytes(500)
        case _:  # a good beginning and nothing but noise after it
            keep = rng.randrange(4, 200)
            broken[keep:] = rng.randbytes(rng.randrange(0, 3_000))
    return bytes(broken)


@pytest.mark.parametrize("count", [300, pytest.param(2_000, marks=pytest.mark.proof)])
def test_mangled_uploads_do_no_harm(count: int) -> None:
    speech = clip(CLIPS[2])[16_000:20_000]
    originals = [as_format(speech, name) for name in FORMATS]
    rng = random.Random(20_251)
    uploads = [(rng.choice(NAMES), mangle(rng.choice(originals), rng)) for _ in range(count)]
    # Four seconds at most: a lying header may turn a quarter of a second into hours of noise, honest work but not this test's.
    with running("app_sensevoice.py", MAX_AUDIO_S="4", LOG_LEVEL="warning") as app:
        process = psutil.Process(app.process.pid)
        send(app, uploads[: max(150, count // 4)])
        settled = process.memory_info().rss
        statuses = send(app, uploads)
        assert process.memory_info().rss - settled < GROWTH_BYTES
        assert sum(statuses.values()) == count
        assert set(statuses) <= {200, 400, 413, 415}, statuses
        assert statuses[200] > count // 20, "some survive their mangling"
        assert statuses[415] + statuses[400] > count // 20, "and some do not"
        good = httpx.post(f"{app.url}/v1/audio/transcriptions", files={"file": CLIPS[2].read_bytes()}, timeout=60)
        assert "amiable" in good.json()["text"]
        assert "Traceback" not in "".join(app.log)


def send(app: RunningApp, uploads: list[tuple[str, bytes]]) -> Counter[int]:
    with ThreadPoolExecutor(CALLERS) as pool, httpx.Client(base_url=app.url, timeout=60) as client:

        def post(upload: tuple[str, bytes]) -> int:
            answer = client.post("/v1/audio/transcriptions", files={"file": upload})
            if answer.status_code >= 500:
                print(answer.text)
            return answer.status_code

        return Counter(pool.map(post, uploads))
