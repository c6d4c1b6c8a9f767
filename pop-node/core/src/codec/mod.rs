//! Voice codecs, concealment and resampling.
