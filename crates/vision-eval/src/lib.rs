//! Metrics with update, merge and compute over plain memory
