//! Device memory as the host sees it, and how findings read.

#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use common::{launch, module};
use paring_ptx_sim::{FindingKind, Memory, MemoryError, Options};

#[test]
fn addresses_are_aligned_apart_and_never_used_again() {
    let mut m = Memory::new();
    let a: Vec<u64> = [1, 512, 513, 0, 4096].map(|n| m.alloc(n)).to_vec();
    assert!(a.iter().all(|p| p % 512 == 0));
    assert!(a.windows(2).all(|p| p[1] >= p[0] + 1024));
    assert_eq!(m.usage(), (5, 1 + 512 + 513 + 4096));
    assert!(m.free(a[4]) && !m.free(a[4]));
    assert!(m.alloc(4096) > a[4]);
    assert_eq!(m.usage().0, 5);
    assert!(format!("{m:?}").contains("allocations: 5"));
}

#[test]
fn accesses_stay_inside_one_allocation() {
    let mut m = Memory::new();
    let a = m.alloc(16);
    m.alloc(16);
    assert_eq!(m.write(a + 9, &[0; 8]), Err(MemoryError { address: a + 9, bytes: 8 }));
    assert!(m.read(a - 1, &mut [0; 1]).is_err());
    assert!(m.fill(a, 0, usize::MAX).is_err());
    assert!(m.copy(a, a + 8, 9).is_err() && m.copy(a + 8, a, 9).is_err());
    assert!(m.is_initialised(u64::MAX, 1).is_err());
    assert!(m.write(a + 16, &[]).is_ok() && m.read(a, &mut []).is_ok());
    let text = m.write(5, &[1, 2]).unwrap_err().to_string();
    assert!(text.contains("2 bytes at 0x5"), "{text}");
}

#[test]
fn initialisation_is_known_by_the_byte() {
    let mut m = Memory::new();
    let (a, b) = (m.alloc(300), m.alloc(300));
    assert_eq!(m.is_initialised(a, 1), Ok(false));
    m.write(a + 60, &[7; 70]).unwrap();
    for (from, n, want) in
        [(60, 70, true), (59, 2, false), (129, 1, true), (129, 2, false), (64, 64, true), (0, 300, false)]
    {
        assert_eq!(m.is_initialised(a + from, n), Ok(want), "{from} {n}");
    }
    // A copy carries the holes with it, also over bytes that were written.
    m.fill(b, 1, 300).unwrap();
    m.copy(b + 10, a + 50, 90).unwrap();
    for (from, n, want) in
        [(0, 10, true), (10, 10, false), (20, 70, true), (90, 1, false), (99, 1, false), (100, 200, true)]
    {
        assert_eq!(m.is_initialised(b + from, n), Ok(want), "{from} {n}");
    }
    let mut bytes = [0; 4];
    m.read(b + 18, &mut bytes).unwrap();
    assert_eq!(bytes[2..], [7, 7]);
    // Within one allocation, overlapping.
    m.write(a, &[1, 2, 3, 4]).unwrap();
    m.copy(a + 1, a, 4).unwrap();
    m.read(a + 1, &mut bytes).unwrap();
    assert_eq!(bytes, [1, 2, 3, 4]);
}

#[test]
fn findings_read_well() {
    let mut m = Memory::new();
    let a = m.alloc(8);
    let source = module(1, "", "ld.param.u64 %d1, [p0];\nld.global.u64 %d2, [%d1];\nst.global.u32 [%d1+8], 1;");
    let r = launch(&source, 1, 2, &[a], &mut m, &Options::default());
    let lines: Vec<String> = r.findings.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "uninitialised read: 8 bytes at offset 0 of an allocation are read but were not all written (PTX line 13: \
             `ld.global.u64 %d2, [%d1]` CTA 0,0,0 thread 0,0,0, 2 times)",
            "out of bounds: 4 bytes at global address 0x7f0000000008: 8 bytes from the start of the nearest allocation, \
             which has 8 bytes (PTX line 14: `st.global.u32 [%d1+8], 1` CTA 0,0,0 thread 0,0,0, 2 times)",
        ]
    );
    assert!(!r.is_clean());
    assert_eq!(r.of_kind(FindingKind::OutOfBounds).count(), 1);
    assert_eq!(FindingKind::SharedReadAfterWrite.to_string(), "shared race (read after write)");
}
