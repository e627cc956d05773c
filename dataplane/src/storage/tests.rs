mod conformance;
mod crashes;
