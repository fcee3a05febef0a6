//! Builds the unikernel image.
