//! RTP and RTCP (RFC 3550) as views of bytes.
