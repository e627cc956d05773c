//! Layer rules, module lists, file sizes, protocol rule coverage.
