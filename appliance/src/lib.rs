//! The box: stages, placement, configuration.
