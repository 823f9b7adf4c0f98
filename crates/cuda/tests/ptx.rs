//! The host's idea of the kernels against the PTX that ships: every kernel has one argument struct, whose fields lie where the PTX declares
//! its parameters, with their types; and every committed PTX is part of the program.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use paring_cuda::{Kind, MODULES, signatures};
use paring_ptx_sim::{Kernel, Module, ParamType};
use std::{collections::BTreeMap, fs, path::Path};

/// Every kernel of every module, by name, with its module's.
fn kernels() -> BTreeMap<String, (&'static str, Kernel)> {
    let mut all = BTreeMap::new();
    for (module, text) in MODULES {
        let parsed = Module::parse(text).unwrap_or_else(|e| panic!("{module}: {e}"));
        for kernel in parsed.kernels() {
            let twice = all.insert(kernel.name().to_owned(), (*module, kernel.clone()));
            assert!(twice.is_none(), "{} is in two modules", kernel.name());
        }
    }
    all
}

#[test]
fn every_argument_struct_is_what_its_kernels_declare() {
    let kernels = kernels();
    let mut wrong = Vec::new();
    for signature in signatures() {
        for entry in signature.entries {
            let Some((module, kernel)) = kernels.get(*entry) else {
                wrong.push(format!("{entry} is in no module"));
                continue;
            };
            let want: Vec<(ParamType, usize, usize)> =
                kernel.params().iter().map(|p| (p.ty, p.offset, p.size)).collect();
            let of = |kind| match kind {
                Kind::Pointer | Kind::U64 => ParamType::U64,
                Kind::U32 => ParamType::U32,
                Kind::F32 => ParamType::F32,
            };
            let got: Vec<_> = signature.fields.iter().map(|f| (of(f.kind), f.offset, f.kind.bytes())).collect();
            if got != want {
                wrong.push(format!("{entry}: the struct has {got:?}, the PTX {want:?}"));
            }
            // A struct ends in padding to its alignment; PTX does not.
            if signature.bytes != kernel.param_bytes().next_multiple_of(8) && signature.bytes != kernel.param_bytes() {
                wrong.push(format!("{entry}: {} bytes, the PTX {}", signature.bytes, kernel.param_bytes()));
            }
            if *module != signature.module {
                wrong.push(format!("{entry} is in {module}, not {}", signature.module));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_kernel_has_one_argument_struct() {
    let mut structs: BTreeMap<String, usize> = kernels().into_keys().map(|name| (name, 0)).collect();
    for entry in signatures().iter().flat_map(|s| s.entries) {
        *structs.entry((*entry).to_owned()).or_default() += 1;
    }
    let wrong: Vec<_> = structs.iter().filter(|(_, n)| **n != 1).collect();
    assert!(wrong.is_empty(), "kernels and how many structs they have: {wrong:?}");
}

#[test]
fn every_committed_text_is_part_of_the_program() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kernels/ptx");
    let names = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let mut files: Vec<String> = names
        .filter(|p| p.extension().is_some_and(|e| e == "ptx"))
        .map(|p| p.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    // Functions of `kernels/include` alone, for tests: never launched by the program.
    files.retain(|name| name != "checks");
    files.sort();
    let mut modules: Vec<&str> = MODULES.iter().map(|(name, _)| *name).collect();
    modules.sort_unstable();
    assert_eq!(files, modules);
}
