//! Inputs that once failed, and some that show the shape of good ones, through their targets.

use std::{collections::BTreeSet, fs, path::Path};

use weft_fuzz::TARGETS;

#[test]
fn what_once_failed_fails_no_more() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for target in TARGETS {
        let folder = corpus.join(target.name);
        let inputs = fs::read_dir(&folder).expect("every target has a folder");
        let mut ran = 0;
        for input in inputs {
            let path = input.expect("the folder can be read").path();
            println!("{}", path.display());
            (target.run)(&fs::read(&path).expect("the input can be read"));
            ran += 1;
        }
        assert!(ran > 0, "{} holds no input", folder.display());
    }
}

#[test]
fn every_folder_has_its_target() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let folders = fs::read_dir(corpus).expect("the corpus is there");
    let folders: BTreeSet<String> = folders
        .map(|folder| folder.expect("it can be read").file_name())
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    let targets = TARGETS.iter().map(|target| target.name.to_owned());
    assert_eq!(folders, targets.collect());
}

/// Small inputs of every kind, so that each target runs in each build.
#[test]
fn nothing_small_breaks_a_target() {
    for target in TARGETS {
        (target.run)(b"");
        for byte in 0..=u8::MAX {
            for length in [1, 3, 4, 16, 20, 64, 200] {
                (target.run)(&vec![byte; length]);
            }
        }
    }
}
