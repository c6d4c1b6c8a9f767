//! The media plane of a POP: relay, playout, transcoding, quality.
