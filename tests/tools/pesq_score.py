"""Prints the narrow-band PESQ (ITU-T P.862) of a recording against its reference, and the lag in ms.

usage: pesq_score.py REFERENCE.wav RECORDING.wav     (both 8 kHz, 16 bit, mono)

A recording begins before and ends after the reference: the best-matching stretch is cut out first
(cross-correlation), because P.862 expects files of equal length that roughly start together.
"""

import sys
import wave

import numpy as np
from pesq import pesq


def read(path):
    with wave.open(path) as f:
        if (f.getframerate(), f.getsampwidth(), f.getnchannels()) != (8000, 2, 1):
            sys.exit(f"{path}: not 8 kHz, 16 bit, mono")
        return np.frombuffer(f.readframes(f.getnframes()), dtype="<i2").astype(float)


def align(reference, recording):
    size = 1 << (len(reference) + len(recording)).bit_length()
    product = np.fft.rfft(recording, size) * np.conj(np.fft.rfft(reference, size))
    lag = int(np.argmax(np.fft.irfft(product, size)[: len(recording)]))
    cut = recording[lag : lag + len(reference)]
    return lag, np.pad(cut, (0, len(reference) - len(cut)))


reference, recording = read(sys.argv[1]), read(sys.argv[2])
if np.abs(recording).max(initial=0) < 100:
    sys.exit(f"{sys.argv[2]}: silent")
lag, aligned = align(reference, recording)
score = pesq(8000, reference.astype(np.int16), aligned.astype(np.int16), "nb")
print(f"{score:.3f} {lag / 8:.0f}")
