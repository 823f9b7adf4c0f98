#![doc = include_str!("../README.md")]

mod activation; // sizes of activations
mod call; // one call, its operands on the host
mod case; // an operation, its shapes and numbers, ready to run
mod check; // results against the reference's, and how far apart they may be
mod op; // operations and shapes
mod random; // shapes that nobody thought of
mod refuse; // calls that have to be refused
mod size; // what rounding errors are measured by
mod table; // all cases
mod values; // numbers that are hard

pub use case::{Case, Prepared};
pub use check::{Bound, Failure, Reason, Report, check};
pub use op::{Op, Wanted};
pub use random::random_shapes;
pub use refuse::check_refusals;
pub use table::cases;
pub use values::Values;

use check::Expected;
use paring_ops::Backend;

/// Every case of the table, and every call that has to be refused, on each of the backends. No failures: they do what the trait says.
pub fn check_all(backends: &[&dyn Backend]) -> Vec<Failure> {
    let mut failures = Vec::new();
    for case in cases() {
        match Expected::of(&case) {
            Ok(expected) => failures.extend(backends.iter().filter_map(|backend| expected.check(*backend).err())),
            Err(wrong_case) => failures.push(wrong_case),
        }
    }
    failures.extend(backends.iter().flat_map(|backend| refuse::check_refusals(*backend)));
    failures
}
