mod conformance;
mod crashes;
mod spare;
mod truncation;
