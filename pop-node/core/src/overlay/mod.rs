//! Statistics of the paths to other POPs.
