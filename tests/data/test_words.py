"""Captions of many languages are split into words and joined again, by each tokeniser."""

import json
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from caption.data.words import WORDS, normalise, tokenise, unspaced_notice
from caption.evaluation.bleu import bleu
from caption.evaluation.caption_set import CaptionSet
from preprocess.__main__ import main as preprocess

ROOT = Path(__file__).parents[2]

# Sentences as people type them; words are what stands between spaces, but for punctuation at their ends.
SPACED = {
    "Arabic, vocalised": "كَلْبٌ يَجْرِي عَلَى العُشْبِ، وَرَجُلٌ يَنْظُرُ.",
    "Bengali": "একটি কুকুর সবুজ ঘাসের উপর দৌড়াচ্ছে।",
    "French": "« Un garçon déguisé court près d’une fenêtre ! »",
    "German": "Ein Mädchen läuft „schnell“ über die Straße.",
    "Greek": "Ένας σκύλος τρέχει στο γρασίδι.",
    "Hebrew, pointed": "כֶּלֶב רָץ עַל הַדֶּשֶׁא.",
    "Hindi": "एक आदमी लाल कुर्ते में सड़क पर साइकिल चला रहा है।",
    "Korean": "개가 잔디밭에서 뛰고 있다.",
    "Malayalam": "ഒരു നായ പച്ച പുല്ലിൽ ഓടുന്നു.",
    "Persian": "مردی می‌خواهد کتاب‌ها را بردارد.",
    "Russian": "Собака бежит по зелёной траве.",
    "Sinhala": "බල්ලෙක් ශ්‍රී ලංකාවේ තණකොළ මත දුවයි.",
    "Spanish": "¿Un niño pequeño está jugando con una pelota?",
    "Tamil": "ஒரு நாய் பச்சை புல்லில் ஓடுகிறது.",
    "Telugu": "ఒక కుక్క గడ్డి మీద పరుగెత్తుతోంది.",
    "Turkish": "İki kadın İstanbul'da ışıklı bir sokakta yürüyor.",
    "Vietnamese": "Một con chó đang chạy trên bãi cỏ xanh.",
}
SEGMENTED = {
    "Burmese": "ခွေး တစ်ကောင် သည် မြက်ခင်း ပေါ်တွင် ပြေးနေသည်။",
    "Chinese": "一只 狗 在 绿色 的 草地 上 奔跑 。",
    "Japanese": "犬 が 緑 の 芝生 の 上 を 走っ て いる 。",
    "Khmer": "ឆ្កែ\u200bកំពុង\u200bរត់\u200bលើ\u200bស្មៅ។",
    "Lao": "ໝາ ກຳລັງ ແລ່ນ ຢູ່ ເທິງ ຫຍ້າ",
    "Thai": "สุนัข กำลัง วิ่ง อยู่ บน สนาม หญ้า สี เขียว",
}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Two dogs , playing !", "two dogs playing"),
        ("The man's T-shirt isn't red.", "the man 's t-shirt isn't red"),
        ("the boys’ dog’s ball", "the boys dog 's ball"),
        ("a café, 3 naïve coöks", "a café 3 naïve coöks"),
        ('"quoted" (and) under_score', "quoted and under score"),
        (" \n\t ... !?", ""),
    ],
)
def test_tokenise_gives_lower_case_words_without_punctuation(text: str, words: str) -> None:
    assert tokenise(text) == words.split()


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("language", [*SPACED, *SEGMENTED])
def test_marks_belong_to_their_letter_in_every_language(language: str, form: str) -> None:
    text = (SPACED | SEGMENTED)[language]
    words = [word.strip("«»„“¿?!،।။។。.") for word in text.replace("\u200b", " ").replace("’", "'").split()]
    words = [word.replace("İ", "i").lower() for word in unicodedata.normalize("NFC", " ".join(words)).split()]
    assert tokenise(unicodedata.normalize(form, text)) == words


@pytest.mark.parametrize("kind", WORDS)
@pytest.mark.parametrize("language", [*SPACED, *SEGMENTED])
def test_a_model_that_reproduces_its_references_scores_100(language: str, kind: str) -> None:
    """However its references are typed; and a word less scores less."""
    text = (SPACED | SEGMENTED)[language]
    words = tokenise(text, kind)
    scores = []
    for caption in (words, words[:-1]):
        written = [WORDS[kind].separator.join(caption)] * 2
        captions = CaptionSet(written, [[text], [unicodedata.normalize("NFD", text)]], word_kind=kind)
        table = bleu(*captions.tokens, captions.ngrams)
        scores.append(next(score.value for score in table if score.name == "BLEU-4"))
    assert scores[0] == pytest.approx(100, abs=1e-4) and scores[1] < 100 - 20 / len(words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\ufeffdo\u200bg do\u2060g do\u200dg do\xadg \u200edog\u200f", "dog dog dog dog dog"),
        ("خانه\u200c ما", "خانه ما"),  # a joiner that joins nothing
        ("İSTANBUL I\u0307stanbul i\u0307stanbul istanbul", "istanbul istanbul istanbul istanbul"),
        ("a \u0301 b ❤\ufe0f", "a b"),  # marks of no letter
        ("t‑shirt l’été ĺ's", "t-shirt l'été ĺ 's"),
    ],
)
def test_what_cannot_be_seen_makes_no_other_word(text: str, words: str) -> None:
    assert tokenise(text) == words.split()


def test_ascii_is_left_as_it_is() -> None:
    text = "".join(map(chr, range(128)))
    assert normalise(text) == text


PHRASES = {
    "Chinese or Japanese": ("一只狗在绿色的草地上奔跑。", "犬が緑の芝生の上を走っている。"),
    "Thai": ("สุนัขกำลังวิ่งอยู่บนสนามหญ้าสีเขียว",),
    "Lao": ("ໝາກຳລັງແລ່ນຢູ່ເທິງຫຍ້າ",),
    "Khmer": ("ឆ្កែកំពុងរត់លើស្មៅ។",),
    "Burmese": ("ခွေးတစ်ကောင်သည်မြက်ခင်းပေါ်တွင်ပြေးနေသည်။",),
}


@pytest.mark.parametrize("script", PHRASES)
def test_a_script_without_spaces_gets_a_notice(script: str) -> None:
    for text in PHRASES[script]:
        notice = unspaced_notice(["a dog", text], "ptb")
        assert f"captions in {script} lack spaces" in notice and "put a space between any two words" in notice
        assert "--words characters" in notice and not unspaced_notice([text], "characters")


@pytest.mark.parametrize("language", [*SPACED, *SEGMENTED])
def test_text_with_spaces_gets_no_notice(language: str) -> None:
    assert not unspaced_notice([(SPACED | SEGMENTED)[language]], "ptb")


def test_preprocess_and_info_say_that_phrases_count_as_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2):
        Image.new("RGB", (20, 20), (90 * number, 9, 9)).save(tmp_path / f"{number}.jpg")
    entries = [
        {"split": "train", "cocoid": number, "filename": f"{number}.jpg",
         "sentences": [{"raw": text} for text in PHRASES["Chinese or Japanese"]]}
        for number in range(2)
    ]  # fmt: skip
    (tmp_path / "karpathy.json").write_text(json.dumps({"images": entries}))
    output = str(tmp_path / "out.h5")
    source = ["karpathy", "--json", str(tmp_path / "karpathy.json"), "--images", str(tmp_path)]
    preprocess([*source, "--output", output, "--min-count", "1", "--size", "16"])
    preprocess(["info", output])
    lines = [line for line in capsys.readouterr().out.splitlines() if "captions in Chinese or Japanese lack" in line]
    assert len(lines) == 2


@pytest.mark.parametrize("kind", WORDS)
@pytest.mark.parametrize("language", [*SPACED, *SEGMENTED])
def test_words_survive_being_joined_and_typed_in_another_form(language: str, kind: str) -> None:
    text = (SPACED | SEGMENTED)[language]
    words = tokenise(text, kind)
    assert words and tokenise(WORDS[kind].separator.join(words), kind) == words
    assert tokenise(unicodedata.normalize("NFD", text), kind) == words


@pytest.mark.parametrize("language", SEGMENTED)
def test_text_segmented_beforehand_keeps_its_words(language: str) -> None:
    """Only a dictionary could find the word boundaries inside these scripts, so there are none between two letters."""
    assert tokenise(SEGMENTED[language], "unicode") == tokenise(SEGMENTED[language])


@pytest.mark.parametrize("language", [*SPACED, *SEGMENTED])
def test_characters_lose_no_letter_and_keep_their_marks(language: str) -> None:
    text = (SPACED | SEGMENTED)[language]
    characters = tokenise(text, "characters")
    assert all(unicodedata.category(character[0])[0] in "LN" for character in characters)
    assert "".join(characters) == "".join(tokenise(text)).replace("'", "")
    assert max(map(len, characters)) < 6 < len(characters)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The man's T-shirt isn't red.", "the man's t shirt isn't red"),
        ("Er läuft 3,5 km, z.B. durch's Gras", "er läuft 3,5 km z.b durch's gras"),
        ("1\u202f000 T恤 3只猫 狗\u200c跑 葛\U000e0100城", "1 000 t恤 3只猫 狗\u200c跑 葛\U000e0100城"),
        ("a \u0301 b \u0e49ก ❤\ufe0f ... _", "a b ก"),
    ],
)
def test_unicode_words_are_those_of_its_boundaries(text: str, words: str) -> None:
    """But for letters of scripts without spaces, which stay together."""
    assert tokenise(text, "unicode") == words.split()


def test_characters_are_not_only_those_of_one_script() -> None:
    assert tokenise("T恤, 12 ä e\u0301 က\u102c\u1038 \u0d4e 9", "characters") == [*"t恤12äé", "ကား", "ൎ", "9"]


def test_english_does_without_the_package_regex() -> None:
    code = "import sys; from caption.data.words import tokenise; tokenise('a café'); sys.exit('regex' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
