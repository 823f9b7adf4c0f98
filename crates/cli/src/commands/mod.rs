//! One module per command.
pub(crate) mod bench; // predicted times on a GPU
pub(crate) mod compress; // the whole job
pub(crate) mod depth; // a model without some of its layers
pub(crate) mod distill; // a student learns
pub(crate) mod eval; // perplexity and tasks
pub(crate) mod generate; // continue a prompt
pub(crate) mod importance; // measure
pub(crate) mod inspect; // what a checkpoint is
pub(crate) mod merge; // shards of an importance file
pub(crate) mod prune; // cut
pub(crate) mod search; // candidates under a budget
