//! Loops of machine code: the graph of basic blocks, its dominators, and the natural loop of every edge that leads back.
//!
//! That a branch leads to a lower address does not make a loop: ptxas puts rare code behind the end of a kernel, from where it jumps back.
use super::sass::{Function, Instruction};
use std::collections::BTreeMap;

/// A basic block: its instructions, and where control goes after them.
struct Block {
    code: std::ops::Range<usize>,
    next: Vec<usize>,
    previous: Vec<usize>,
}

/// Indices of the instructions of each loop, ascending; loops of one header are one. The jump of a kernel to itself after its end is left
/// out: nothing reaches it.
pub(super) fn loops(function: &Function) -> Vec<Vec<usize>> {
    let blocks = blocks(function);
    let dominators = dominators(&blocks);
    let mut bodies: BTreeMap<usize, Vec<bool>> = BTreeMap::new();
    for (tail, block) in blocks.iter().enumerate() {
        for &header in &block.next {
            if dominators[tail].as_ref().is_some_and(|d| d[header]) {
                let body = bodies.entry(header).or_insert_with(|| vec![false; blocks.len()]);
                body[header] = true;
                let mut open = vec![tail];
                while let Some(b) = open.pop() {
                    if !std::mem::replace(&mut body[b], true) {
                        open.extend(&blocks[b].previous);
                    }
                }
            }
        }
    }
    let code = |body: Vec<bool>| (0..blocks.len()).filter(|b| body[*b]).flat_map(|b| blocks[b].code.clone()).collect();
    bodies.into_values().map(code).collect()
}

/// Whether control may leave the straight line after `i`, and whether it may also go on.
fn leaves(i: &Instruction) -> (bool, bool) {
    // `BRA !P2, ...` and `BRA.DIV ~URZ, ...` have a condition of their own.
    let conditional = i.guarded || i.base() == "BRA" && !i.operands.starts_with('`');
    match i.base() {
        "BRA" | "EXIT" | "RET" | "BRX" | "JMP" | "JMX" => (true, conditional),
        // A call comes back.
        _ => (false, true),
    }
}

fn blocks(function: &Function) -> Vec<Block> {
    let n = function.code.len();
    let mut starts = vec![false; n + 1];
    starts[0] = true;
    for label in function.labels.values() {
        starts[*label] = true;
    }
    for (i, instruction) in function.code.iter().enumerate() {
        if leaves(instruction).0 {
            starts[i + 1] = true;
        }
    }
    let starts: Vec<usize> = (0..n).filter(|i| starts[*i]).collect();
    let block_of = |i: usize| starts.binary_search(&i).ok();
    let mut blocks: Vec<Block> = Vec::with_capacity(starts.len());
    for (b, &start) in starts.iter().enumerate() {
        let end = starts.get(b + 1).copied().unwrap_or(n);
        let mut next = Vec::new();
        if let Some(last) = function.code[start..end].last() {
            let (jumps, goes_on) = leaves(last);
            next.extend(function.target(last).filter(|_| jumps).and_then(block_of));
            next.extend(block_of(end).filter(|_| goes_on));
        }
        next.dedup();
        blocks.push(Block { code: start..end, next, previous: vec![] });
    }
    for b in 0..blocks.len() {
        for next in blocks[b].next.clone() {
            blocks[next].previous.push(b);
        }
    }
    blocks
}

/// For each block, which blocks are on every way to it from the first; `None` where there is no way.
fn dominators(blocks: &[Block]) -> Vec<Option<Vec<bool>>> {
    let n = blocks.len();
    let mut dominators: Vec<Option<Vec<bool>>> = vec![None; n];
    if let Some(first) = dominators.first_mut() {
        *first = Some((0..n).map(|b| b == 0).collect());
    }
    let mut changed = true;
    while changed {
        changed = false;
        for b in 1..n {
            let mut known = blocks[b].previous.iter().filter_map(|p| dominators[*p].as_ref());
            let Some(first) = known.next() else { continue };
            let mut set = first.clone();
            for other in known {
                set.iter_mut().zip(other).for_each(|(s, o)| *s &= o);
            }
            set[b] = true;
            if dominators[b].as_ref() != Some(&set) {
                dominators[b] = Some(set);
                changed = true;
            }
        }
    }
    dominators
}
