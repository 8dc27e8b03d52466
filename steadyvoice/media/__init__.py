"""Audio, text and subtitles, in and out. Knows no engine, no worker, no HTTP."""
