//! Changes of the cluster's membership, from the side of its operators, and the view in which a replica starts.
//!
//! Owns what the View Manager's tool does: makes keys for future members, and the next membership from the
//! current one; and what a replica remembers of views while it is down. Always true: nothing is sent that the
//! protocol would refuse for its contents. Must not: decide what the membership is: the members do, in the
//! order of all requests.

pub mod beginning;
pub mod change;
pub mod command;
pub mod kept;
pub mod keys;
