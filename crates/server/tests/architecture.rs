//! What ARCHITECTURE.md says of its invariants: each names what guards it, and that exists.

use std::fs;
use std::path::{Path, PathBuf};

/// All sources of the crates, in one text.
fn sources(folder: &Path, into: &mut String) {
    for entry in fs::read_dir(folder).expect("the folder can be read") {
        let path = entry.expect("the folder can be read").path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&fs::read_to_string(path).expect("a text"));
        }
    }
}

/// Whether there is a function, a variant or a file of this name.
fn exists(name: &str, root: &Path, sources: &str) -> bool {
    let is_path = name.contains('/') || name.contains('.');
    let is_variant = name.starts_with(char::is_uppercase);
    if is_path {
        root.join(name).exists()
    } else if is_variant {
        ["", ",", " {", "("].iter().any(|end| sources.contains(&format!("\n    {name}{end}")))
    } else {
        sources.contains(&format!("fn {name}(")) || sources.contains(&format!("fn {name}<"))
    }
}

#[test]
fn every_invariant_names_what_guards_it_and_that_exists() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let (_, invariants) = text.split_once("\n## Invariants\n").unwrap();
    let invariants = invariants.split("\n## ").next().unwrap();
    let mut all = String::new();
    sources(&root.join("crates"), &mut all);
    let mut count = 0;
    for invariant in invariants.split("\n* **").skip(1) {
        let guards = invariant.split_once("*Guarded by* ").unwrap_or_else(|| panic!("nothing guards: {invariant}")).1;
        let names: Vec<_> = guards.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "{invariant}");
        for name in names {
            assert!(exists(name, &root, &all), "there is no {name}: {invariant}");
        }
        count += 1;
    }
    assert!(count > 30, "{count}");
}
