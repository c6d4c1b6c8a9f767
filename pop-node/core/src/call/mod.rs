//! Calls: a back-to-back user agent over two legs (RFC 7092).
