mod conformance;
mod crashes;
mod truncation;
