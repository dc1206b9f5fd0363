"""Floor 2: which model it is, and how it gets into memory."""

from swift.models.info import describe
from swift.models.load import get_model_processor, get_processor, load

__all__ = ['describe', 'get_model_processor', 'get_processor', 'load']
