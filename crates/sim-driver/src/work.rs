//! Work that waits in a stream or a graph.
use paring_ptx_sim::{Launch, Module};
use std::{ffi::c_void, sync::Arc};

/// A kernel with its arguments.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    pub(crate) module: Arc<Module>,
    pub(crate) name: Arc<str>,
    pub(crate) launch: Launch,
}

/// Where host bytes come from when the copy runs.
#[derive(Clone, Debug)]
pub(crate) enum HostSource {
    /// Bytes that were taken at the call: pageable memory is staged, as real drivers do.
    Staged(Arc<[u8]>),
    /// Address and length of page-locked memory, or of any host memory in a graph: read when the copy runs.
    Lazy(usize, usize),
}

/// A function of the host, put on a stream.
pub(crate) type HostFunction = extern "C" fn(*mut c_void);

/// One piece of work.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    Kernel(Arc<Kernel>),
    HostToDevice {
        to: u64,
        from: HostSource,
    },
    DeviceToHost {
        to: usize,
        from: u64,
        bytes: usize,
    },
    DeviceToDevice {
        to: u64,
        from: u64,
        bytes: usize,
    },
    /// Repeats the first `width` bytes of `pattern`.
    Set {
        to: u64,
        pattern: [u8; 4],
        width: usize,
        bytes: usize,
    },
    Free {
        address: u64,
    },
    Host {
        function: HostFunction,
        data: usize,
    },
    Graph(Arc<Vec<Node>>),
    /// Nothing: carries what has to run before it.
    Join,
}

impl Work {
    /// A number for each sort: graphs may be updated where the sorts agree (and are then `CUgraphNodeType`).
    pub(crate) fn sort(&self) -> u32 {
        match self {
            Work::Kernel(_) => 0,
            Work::HostToDevice { .. } => 100,
            Work::DeviceToHost { .. } => 101,
            Work::DeviceToDevice { .. } => 102,
            Work::Set { .. } => 2,
            Work::Host { .. } => 3,
            Work::Graph(_) => 4,
            Work::Join => 5,
            Work::Free { .. } => 11,
        }
    }

    /// Whether the host memory `start..end` is read or written when this runs.
    pub(crate) fn uses_host(&self, start: usize, end: usize) -> bool {
        let overlaps = |at: usize, bytes: usize| at < end && start < at.saturating_add(bytes);
        match self {
            Work::HostToDevice { from: HostSource::Lazy(at, bytes), .. } => overlaps(*at, *bytes),
            Work::DeviceToHost { to, bytes, .. } => overlaps(*to, *bytes),
            Work::Graph(nodes) => nodes.iter().any(|n| n.work.uses_host(start, end)),
            _ => false,
        }
    }
}

/// Work in a graph, with the nodes that must run before it.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) work: Work,
    pub(crate) after: Vec<usize>,
}

/// Everything before a point of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    pub(crate) stream: u32,
    pub(crate) sequence: u64,
}

/// Work in a stream.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) sequence: u64,
    pub(crate) after: Vec<Point>,
    pub(crate) work: Work,
}

/// The order in which a graph's nodes run: of those that may, the one that was captured last. A dependency that was forgotten is then
/// broken whenever it can be.
pub(crate) fn order(nodes: &[Node]) -> Vec<usize> {
    let mut missing: Vec<usize> = nodes.iter().map(|n| n.after.len()).collect();
    let mut followers = vec![Vec::new(); nodes.len()];
    for (i, node) in nodes.iter().enumerate() {
        for &before in &node.after {
            if let Some(f) = followers.get_mut(before) {
                f.push(i);
            }
        }
    }
    let mut ready: std::collections::BinaryHeap<usize> = (0..nodes.len()).filter(|&i| missing[i] == 0).collect();
    let mut out = Vec::with_capacity(nodes.len());
    while let Some(i) = ready.pop() {
        out.push(i);
        for &f in &followers[i] {
            missing[f] -= 1;
            if missing[f] == 0 {
                ready.push(f);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(after: &[usize]) -> Node {
        Node { work: Work::Join, after: after.to_vec() }
    }

    #[test]
    fn independent_nodes_run_in_the_order_that_is_least_expected() {
        assert_eq!(order(&[node(&[]), node(&[0]), node(&[1])]), [0, 1, 2]);
        assert_eq!(order(&[node(&[]), node(&[]), node(&[0])]), [1, 0, 2]);
        // A fork and its join.
        assert_eq!(order(&[node(&[]), node(&[0]), node(&[0]), node(&[1, 2])]), [0, 2, 1, 3]);
    }
}
