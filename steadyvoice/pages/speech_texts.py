"""What the text-to-speech page says, in both languages. Data only."""

from __future__ import annotations

from steadyvoice.engine_specs import EMOTIONS
from steadyvoice.pages.base import Texts

LANGUAGE_NAMES = {"auto": "Auto 自动", "zh": "中文", "yue": "粤语", "en": "English", "ja": "日本語", "ko": "한국어"}
EMOTION_NAMES = dict(zip(EMOTIONS, ("自然", "开心", "愤怒", "悲伤", "恐惧", "厌恶", "忧郁", "惊讶", "平静"), strict=True))

TEXTS: Texts = {
    "title": ("# steadyvoice · Text to speech", "# steadyvoice · 文字转语音"),
    "text": ("Text", "文本"),
    "placeholder": ("Type what should be said…", "请输入要朗读的文字…"),
    "speaker": ("Speaker", "说话人"),
    "voice": ("Voice", "音色"),
    "speak": ("Speak", "开始合成"),
    "stop": ("Stop", "停止"),
    "more": ("Voices, emotion, speed and more", "音色、情感、语速等"),
    "more_plain": ("Emotion, speed and more", "情感、语速等"),
    # Voices
    "voices": ("Voices", "音色"),
    "refresh": ("Refresh the list", "刷新列表"),
    "remove": ("Remove this voice", "删除此音色"),
    "confirm": ("Remove this voice for all users?", "确定为所有人删除此音色吗？"),
    "recording": ("New voice: a recording of 1 to 15 s, best 5 to 10", "新音色：1–15 秒的录音，最好 5–10 秒"),
    "name": ("Its name", "名称"),
    "keep": ("Keep this voice", "保存此音色"),
    "heard": ("What the engine hears of this voice:", "引擎听到的参考音频："),
    "no_voice": (
        "There is no voice yet: upload or record one here, then press “Keep this voice”.",
        "还没有音色：请在此上传或录制，然后点击“保存此音色”。",
    ),
    "kept": ("✓ Voice “{name}” is kept: {seconds:.1f} s.", "✓ 已保存音色“{name}”：{seconds:.1f} 秒。"),
    "removed": ("✓ Voice “{name}” is removed.", "✓ 已删除音色“{name}”。"),
    # Emotion
    "emotion": ("Emotion", "情感"),
    "way": ("Tell the emotion by", "情感的指定方式"),
    "way_name": ("Name", "名称"),
    "way_vector": ("Sliders", "滑块"),
    "way_voice": ("Recording", "录音"),
    "way_text": ("Words", "描述"),
    "strength": ("Strength of the emotion", "情感强度"),
    "emotion_voice": ("Voice whose recording has the emotion", "带有该情感的音色录音"),
    "emotion_text": ("Description of the emotion", "情感描述"),
    **{name: (name.capitalize(), chinese) for name, chinese in EMOTION_NAMES.items()},
    # Settings
    "settings": ("Settings", "设置"),
    "language": ("Language", "语言"),
    "speed": ("Speed", "语速"),
    "format": ("File format", "文件格式"),
    "seed": ("Seed: a number for the same answer again; empty: random", "随机种子：相同数字得到相同结果；留空为随机"),
    # Answer
    "result": ("Whole audio", "完整音频"),
    "download": ("Download", "下载"),
    "subtitles_srt": ("Subtitles .srt", "字幕 .srt"),
    "subtitles_vtt": ("Subtitles .vtt", "字幕 .vtt"),
    "ready": ("Type a text, then press Speak.", "请输入文字，然后点击“开始合成”。"),
    "working": (
        "Processing… If others are before you, your place is shown above.",
        "处理中…若前面有人，上方会显示排队位次。",
    ),
    "speaking": ("Speaking: {done} of {total} sentences", "合成中：{done} / {total} 句"),
    "done": (
        "✓ {seconds:.1f} s of audio, sentences: {sentences}, tokens: {tokens}. Engine {engine}; "
        "queue {queue:.2f} s, inference {inference:.2f} s.",
        "✓ 音频 {seconds:.1f} 秒，{sentences} 句，{tokens} 个 token。"
        "引擎 {engine}；排队 {queue:.2f} 秒，推理 {inference:.2f} 秒。",
    ),
    "flawed": (" ⚠ Sentences with a defect: {numbers}.", " ⚠ 有缺陷的句子：{numbers}。"),
    "refused": (
        "⚠ That did not work: too many people are waiting. Try again in a moment.",
        "⚠ 未能开始：排队人数已满，请稍后再试。",
    ),
    "stopped": ("Stopped.", "已停止。"),
    # Sentences
    "col_sentence": ("Sentence", "句子"),
    "col_tokens": ("Tokens", "token 数"),
    "col_seconds": ("Seconds", "秒"),
    "estimate": (
        "Sentences: {sentences} · about {tokens} tokens, {seconds:.1f} s",
        "共 {sentences} 句 · 约 {tokens} 个 token，{seconds:.1f} 秒",
    ),
    "measured": (
        "Sentences: {done} of {sentences} · {tokens} tokens, {seconds:.1f} s",
        "已完成 {done} / {sentences} 句 · {tokens} 个 token，{seconds:.1f} 秒",
    ),
    "more_rows": ("… and {rows} more", "… 还有 {rows} 句"),
    "defect_silent": ("⚠ silent, also at a second try", "⚠ 无声，重试后仍然如此"),
    "defect_cut_off": ("⚠ cut off at its end, also at a second try", "⚠ 结尾被截断，重试后仍然如此"),
    "defect_too_short": ("⚠ too short, also at a second try", "⚠ 过短，重试后仍然如此"),
    "defect_other": ("⚠ not as it should be, also at a second try", "⚠ 有缺陷，重试后仍然如此"),
    "retried": ("↻ good at the second try", "↻ 重试后正常"),
    "reduced": ("made with a simpler search: memory was short", "内存不足，采用了简化搜索"),
    # History
    "history": ("Spoken in this visit (kept for an hour)", "本次访问的记录（保留一小时）"),
    "history_seconds": ("{seconds:.1f} s", "{seconds:.1f} 秒"),
    "history_download": ("download", "下载"),
}
