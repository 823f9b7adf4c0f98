//! Graphs: recorded work that is launched as one.
use super::{Out, driver_calls, with_handle, with_stream};
use crate::{
    handle::{Handle, Kind},
    status::{Result, Status},
    work::{Node, Work},
};
use std::{ffi::c_void, sync::Arc};

/// `CUgraphExecUpdateResultInfo`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct UpdateInfo {
    result: u32,
    node: *mut c_void,
    from: *mut c_void,
}

/// `CUgraphExecUpdateResult` of taking over `new`: 0, 2 the nodes or what they depend on are others, 3 they are of other sorts.
fn update(old: &[Node], new: &[Node]) -> u32 {
    if old.len() != new.len() || old.iter().zip(new).any(|(a, b)| a.after != b.after) {
        return 2;
    }
    if old.iter().zip(new).any(|(a, b)| a.work.sort() != b.work.sort()) {
        return 3;
    }
    0
}

fn instantiate(out: Out<Handle>, graph: Handle) -> Result {
    let (ordinal, _) = graph.of(Kind::Graph)?;
    let index = with_handle(graph, Kind::Graph, |d, index| {
        d.check()?;
        let nodes = Arc::new(d.graphs.get(&index).cloned().ok_or(Status::INVALID_HANDLE)?);
        let index = d.index();
        d.executables.insert(index, nodes);
        Ok(index)
    })?;
    out.set(Handle::new(Kind::Executable, ordinal, index))
}

driver_calls! {
    /// Flags: 1 frees memory of allocation nodes, 2 uploads, 8 takes over priorities. 4 is for launches by a device.
    fn cuGraphInstantiateWithFlags(out: Out<Handle>, graph: Handle, flags: u64) {
        match flags & !0b1011 {
            0 => instantiate(out, graph),
            _ => Err(Status::INVALID_VALUE),
        }
    }

    fn cuGraphInstantiate_v2(out: Out<Handle>, graph: Handle, _node: *mut c_void, _log: *mut c_void, _size: usize) {
        instantiate(out, graph)
    }

    fn cuGraphExecUpdate_v2(executable: Handle, graph: Handle, info: Out<UpdateInfo>) {
        let (of_executable, index) = executable.of(Kind::Executable)?;
        let (of_graph, _) = graph.of(Kind::Graph)?;
        if of_executable != of_graph {
            return Err(Status::INVALID_VALUE);
        }
        let result = with_handle(graph, Kind::Graph, |d, graph| {
            d.check()?;
            let new = d.graphs.get(&graph).ok_or(Status::INVALID_HANDLE)?.clone();
            let old = d.executables.get_mut(&index).ok_or(Status::INVALID_HANDLE)?;
            let result = update(old, &new);
            if result == 0 {
                // Launches that are queued keep what they were launched with.
                *old = Arc::new(new);
            }
            Ok(result)
        })?;
        info.offer(UpdateInfo { result, node: std::ptr::null_mut(), from: std::ptr::null_mut() });
        match result {
            0 => Ok(()),
            _ => Err(Status::GRAPH_UPDATE),
        }
    }

    fn cuGraphUpload(executable: Handle, _stream: Handle) {
        with_handle(executable, Kind::Executable, |d, _| d.check())
    }

    fn cuGraphLaunch(executable: Handle, stream: Handle) {
        let (ordinal, index) = executable.of(Kind::Executable)?;
        with_stream(stream, |d, on| {
            if stream.stream(Ok(ordinal))?.0 != ordinal {
                return Err(Status::INVALID_HANDLE);
            }
            let nodes = Arc::clone(d.executables.get(&index).ok_or(Status::INVALID_HANDLE)?);
            d.submit(on, Work::Graph(nodes))
        })
    }

    fn cuGraphExecDestroy(executable: Handle) {
        with_handle(executable, Kind::Executable, |d, index| {
            d.executables.remove(&index).map(drop).ok_or(Status::INVALID_HANDLE)
        })
    }

    fn cuGraphDestroy(graph: Handle) {
        with_handle(graph, Kind::Graph, |d, index| {
            d.graphs.remove(&index).map(drop).ok_or(Status::INVALID_HANDLE)
        })
    }

    /// Numbers of nodes; the nodes themselves have no handles here.
    fn cuGraphGetNodes(graph: Handle, nodes: *mut *mut c_void, count: Out<usize>) {
        if !nodes.is_null() {
            return Err(Status::NOT_SUPPORTED);
        }
        count.set(with_handle(graph, Kind::Graph, |d, index| {
            d.graphs.get(&index).map(Vec::len).ok_or(Status::INVALID_HANDLE)
        })?)
    }
}
