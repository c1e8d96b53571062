from .change import Size as Size, sizes as sizes
from .reading import read_recordings as read_recordings
from .recording import Recording as Recording
