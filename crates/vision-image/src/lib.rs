//! Decode, resize, augment and draw pictures held as plain memory
