//! Optimisers, schedules, the training loop, checkpoints, reports and the command line
