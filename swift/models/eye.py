"""How a model sees: its checkpoint's own processor, for pictures in prompts of chats.

The processor says what stands for each picture in the text, and what the model takes beside the ids. It is asked for
both with the pictures alone, never with the text, so that nothing that people write can be taken for a picture.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from swift.core.errors import ModelError, RequestError
from swift.core.types import ModelInfo
from swift.models import pictures as files
from swift.models.info import PROCESSORS

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

OF_TEXT = ('input_ids', 'attention_mask', 'text_replacement_offsets')
OF_TOKENS = ('mm_token_type_ids', 'token_type_ids')  # which tokens of the prompt are pictures
NOT_BUILT = {'cross_attention_mask': 'its text looks at pictures by cross-attention'}
"""Inputs that depend on the text in ways of their own -> why such a model is refused."""


class Eye:
    """Implements ``core.types.Eye`` with a processor of transformers; ``blind`` says why there is none."""

    def __init__(self, processor: Any, blind: str | None = None):
        self.blind = blind
        self.token: str = '' if processor is None else processor.image_token
        self._processor = processor

    def words(self, pictures: Sequence[bytes]) -> list[str]:
        """The text that stands for each picture. Raises RequestError."""
        found = self._look(pictures)['text_replacement_offsets'][0]
        return [each['replacement'] for each in found]

    def inputs(self, pictures: Sequence[bytes], prompt_ids: Sequence[int]) -> dict[str, Tensor]:
        """What the model's forward takes beside the ids. Raises RequestError."""
        import torch

        found = {name: value for name, value in self._look(pictures).items() if name not in OF_TEXT}
        for name in OF_TOKENS & found.keys():
            found[name] = torch.tensor(self._processor.create_mm_token_type_ids([list(prompt_ids)]))
        return found

    def _look(self, pictures: Sequence[bytes]) -> Any:
        """All that the processor makes of pictures, with nothing but them in the text."""
        if self.blind is not None:
            raise RequestError(self.blind, param='messages')
        images = [_decoded(data, number) for number, data in enumerate(pictures, 1)]
        try:
            return self._processor(
                text=[self.token * len(images)],
                images=[images],
                return_tensors='pt',
                return_text_replacement_offsets=True,
                add_special_tokens=False,
            )
        except Exception as error:  # too narrow for its patches, say; each processor fails in ways of its own
            shapes = ', '.join(f'{image.width}x{image.height}' for image in images)
            raise RequestError(
                f'the model cannot take pictures of {shapes} pixels ({error})', param='messages'
            ) from error


def _decoded(data: bytes, number: int) -> Any:
    try:
        return files.decode(data)
    except RequestError as error:
        raise RequestError(f'picture {number}: {error}', param='messages') from error


def open_eye(info: ModelInfo) -> Eye:
    """The eye of a checkpoint; a blind one, with a warning that says why, where its processor does not work here."""
    try:
        eye = Eye(_processor(info))
        made = eye._look([_gray()])
        if missing := [why for name, why in NOT_BUILT.items() if name in made]:
            raise ModelError(f'{missing[0]}: not built yet')
        if not made['text_replacement_offsets'][0]:
            raise ModelError('its processor does not say what a picture becomes in the text')
    except Exception as error:  # processors fail in ways of their own; the model still answers text
        why = str(error).strip().splitlines()[0]
        hint = '; pip install torchvision' if 'torchvision' in str(error).lower() else ''
        eye = Eye(None, blind=f'{info.id} takes text alone here: {why}{hint}')
        logger.warning('pictures are refused: %s', eye.blind)
    return eye


def _gray() -> bytes:
    """A small picture to try the processor with."""
    from PIL import Image

    kept = io.BytesIO()
    Image.new('RGB', (64, 64), (128, 128, 128)).save(kept, 'PNG')
    return kept.getvalue()


def _processor(info: ModelInfo) -> Any:
    """The processor of the folder, by the class that its files name or else its family has. Raises ModelError."""
    from transformers.models.auto import processing_auto as auto
    from transformers.utils.import_utils import is_torchvision_available

    named = [_json(info.path / name).get('processor_class') for name in PROCESSORS]
    name = next(filter(None, named), None) or auto.PROCESSOR_MAPPING_NAMES.get(info.config.model_type)
    kind = name and auto.processor_class_from_name(name)
    if kind is None:
        raise ModelError(f'transformers has no processor {name or f"for {info.config.model_type}"}')
    if not is_torchvision_available() and 'video_processor' in kind.get_attributes():
        kind = _without_videos(kind)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return kind.from_pretrained(info.path, local_files_only=True)


def _without_videos(kind: Any) -> Any:
    """The class without its processor of videos, which needs torchvision in transformers; pictures do not need it."""
    attributes = kind.get_attributes()

    class WithoutVideos(kind):
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in attributes if name != 'video_processor']

        @classmethod
        def _get_arguments_from_pretrained(cls, *args: Any, **kwargs: Any) -> list[Any]:
            found = super()._get_arguments_from_pretrained(*args, **kwargs)
            return [*found[: (at := attributes.index('video_processor'))], None, *found[at:]]

    return WithoutVideos


def _json(path: Any) -> dict[str, Any]:
    return json.loads(path.read_text(encoding='utf-8')) if path.is_file() else {}
