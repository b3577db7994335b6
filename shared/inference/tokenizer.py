"""A BERT's tokenizer as tasks call it, straight from its `tokenizer.json`, without transformers."""

import json
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer

FILE, CONFIG = "tokenizer.json", "tokenizer_config.json"
CLASSES = (None, "BertTokenizer", "BertTokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")
SWITCHES = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
"""What `tokenizer_config.json` may say, by its name, and that of the normalizer for it."""
SPECIAL = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "mask_token": "[MASK]"}


class Encoded(dict[str, list[Any]]):
    """`input_ids`, `token_type_ids` and `offset_mapping` of every text, and its words."""

    def __init__(self, encodings: Sequence[Encoding]) -> None:
        super().__init__(
            input_ids=[encoding.ids for encoding in encodings],
            token_type_ids=[encoding.type_ids for encoding in encodings],
            offset_mapping=[encoding.offsets for encoding in encodings],
        )
        self._encodings = encodings

    def word_ids(self, index: int = 0) -> list[int | None]:
        """The word that each sub-token of a text is of."""
        words: list[int | None] = self._encodings[index].word_ids
        return words


class LightTokenizer:
    """What tasks use of transformers' `PreTrainedTokenizerFast`; may be used by several threads.

    Args:
        folder: A backbone's, of which `is_known`.
    """

    def __init__(self, folder: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / FILE))
        self._tokenizer.no_padding()
        self._turn = threading.Lock()
        settings, ids = _settings(folder), {}
        for key, usual in SPECIAL.items():
            named = settings.get(key) or usual
            ids[key] = self._tokenizer.token_to_id(named["content"] if isinstance(named, dict) else named)
        self.cls_token_id, self.sep_token_id, self.pad_token_id, self.mask_token_id = ids.values()
        self.vocab_size = self._tokenizer.get_vocab_size(with_added_tokens=False)

    def __call__(
        self,
        texts: str | Sequence[Any],
        pairs: Sequence[str] | None = None,
        *,
        truncation: bool | str = False,
        max_length: int | None = None,
        add_special_tokens: bool = True,
        is_split_into_words: bool = False,
        **_: Any,
    ) -> Encoded | dict[str, Any]:
        """As transformers' tokenizers; of a pair the longer text is cut, as `longest_first` says."""
        given = [texts] if isinstance(texts, str) else texts
        rows = list(given) if pairs is None else list(zip(given, pairs, strict=True))
        with self._turn:  # how texts are cut is a state of the tokenizer
            if truncation and max_length is not None:
                self._tokenizer.enable_truncation(max_length)
            else:
                self._tokenizer.no_truncation()
            found = self._tokenizer.encode_batch(
                rows, is_pretokenized=is_split_into_words, add_special_tokens=add_special_tokens
            )
        encoded = Encoded(found)
        return {key: values[0] for key, values in encoded.items()} if isinstance(texts, str) else encoded

    def convert_ids_to_tokens(self, ids: Iterable[int]) -> list[str]:
        """The sub-tokens of these numbers."""
        return [str(self._tokenizer.id_to_token(number)) for number in ids]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False, **_: Any) -> str:
        """The text that sub-tokens stand for; the decoder has closed the gaps before punctuation."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text


def is_known(folder: Path) -> bool:
    """Whether `tokenizer.json` says all there is to say of a backbone's tokenizer."""
    if not (folder / FILE).is_file() or (folder / "added_tokens.json").is_file():
        return False
    settings = _settings(folder)
    normalizer = json.loads((folder / FILE).read_text(encoding="utf-8")).get("normalizer") or {}
    return (
        settings.get("tokenizer_class") in CLASSES
        and normalizer.get("type") == "BertNormalizer"
        and all(settings.get(key, normalizer.get(name)) == normalizer.get(name) for key, name in SWITCHES.items())
    )


def _settings(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}
