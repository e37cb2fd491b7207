"""Text encoders that others have trained: CLIP (Radford et al. 2021) and T5 (Raffel et al. 2020), by `transformers`."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs.errors import UserError
from configs.systems.generator import TextConfig

CLASSES = {"clip": "CLIPTextModel", "t5": "T5EncoderModel"}


class TextEncoder:
    """A frozen encoder from a local folder or the hub; weights are read from safetensors only.

    Raises:
        UserError: `transformers` is missing, there is no such model, or its tokens have another width.
    """

    def __init__(self, config: TextConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        transformers = _transformers()
        if config.path is not None and not Path(config.path).is_dir():
            raise UserError("no such folder", where="model.text.path", hint="a folder that save_pretrained wrote")
        place = config.path or config.hub
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(place)
            kind = getattr(transformers, CLASSES[config.encoder])
            model = kind.from_pretrained(place, use_safetensors=True)
        except (OSError, ValueError, KeyError) as error:
            first = str(error).strip().splitlines()[0]
            raise UserError(
                f"no {config.encoder} text encoder could be loaded: {first}",
                where=place,
                hint="model.text.path=FOLDER takes a local copy",
            ) from None
        width = getattr(model.config, "hidden_size", None) or model.config.d_model
        if width != config.width:
            raise UserError(
                f"its tokens have {width} channels, the config says {config.width}",
                where=place,
                hint=f"model.text.width={width}",
            )
        self._model = model.to(device).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokens `[b, m, d]` and their mask `[b, m]`, 1 where there is a word; an empty text is all zeros."""
        found = self._tokenizer(
            list(texts), padding="max_length", max_length=self.config.tokens, truncation=True, return_tensors="pt"
        ).to(self.device)
        tokens = self._model(input_ids=found["input_ids"], attention_mask=found["attention_mask"]).last_hidden_state
        said = torch.tensor([[bool(text.strip())] for text in texts], device=self.device)
        mask = found["attention_mask"].float() * said
        return tokens.float() * mask[..., None], mask


def _transformers() -> Any:
    try:
        return importlib.import_module("transformers")
    except ImportError:
        raise UserError(
            "condition: text needs the package transformers",
            where="model.condition",
            hint="pip install 'headway[text]'; or model.condition=attributes, which needs nothing",
        ) from None
