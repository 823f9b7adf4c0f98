//! The reference passes its own table: results trivially, and what is to be refused is refused.
use paring_conformance::{Failure, check_all};
use paring_reference::Reference;

#[test]
fn every_case_of_the_table() {
    let failures: Vec<String> = check_all(&[&Reference]).iter().map(Failure::to_string).collect();
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}
