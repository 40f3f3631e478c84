//! `include/mdr.h` is what the source says now, compiles as C and as C++ with every warning an error, and a second
//! generator agrees with it about the numbers and sizes of every type.
//!
//! Run with `cargo test --features headers --test header`; `MDR_BLESS=1` rewrites the header.

mod common;

use common::tools::{available, repository, run};
use mdr::ffi::{MDR_ABI_VERSION, header};
use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn committed_header_is_current() {
    let path = repository("include/mdr.h");
    if std::env::var_os("MDR_BLESS").is_some() {
        fs::create_dir_all(path.parent().expect("include")).expect("a folder for the header");
        fs::write(&path, header()).expect("the header can be written");
    }
    let committed = fs::read_to_string(&path).expect("include/mdr.h").replace("\r\n", "\n");
    for (number, (committed, current)) in committed.lines().zip(header().lines()).enumerate() {
        assert_eq!(committed, current, "line {} is not current: run again with MDR_BLESS=1", number + 1);
    }
    assert_eq!(committed.lines().count(), header().lines().count(), "run again with MDR_BLESS=1");
}

#[test]
fn every_parameter_is_documented() {
    let text = header();
    let mut functions = 0;
    for (start, _) in text.match_indices(");\n") {
        let declaration = &text[..start];
        let (docs, declaration) = declaration.rsplit_once("*/").expect("documentation before each function");
        let docs = &docs[docs.rfind("/**").expect("start of the documentation")..];
        assert!(!docs.contains("No documentation"), "{declaration}");
        let (_, parameters) = declaration.split_once('(').expect("parameters");
        functions += 1;
        // A function pointer is named inside its own parentheses, with parameters that have no names.
        let parameters = parameters
            .replace("(uint64_t, uint64_t, void *)", "")
            .replace("(uint64_t, uint64_t, uint64_t, void *, void *)", "")
            .replace("(uint64_t, uint64_t, uint64_t, void const *, void *)", "")
            .replace(')', "");
        for parameter in parameters.split(',').filter(|parameter| parameter.trim() != "void") {
            let name = parameter.rsplit([' ', '*']).next().expect("a name").trim();
            assert!(docs.contains(&format!("`{name}`")), "{name} is not documented in {declaration}");
        }
    }
    assert!(functions >= 11, "only {functions} functions were found");
}

/// Compiles `source` with every warning an error.
fn compile(compiler: &str, standard: &str, source: &Path) {
    run(Command::new(compiler)
        .args([standard, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"])
        .args((compiler == "cc").then_some("-Wstrict-prototypes"))
        .arg("-I")
        .arg(repository("include"))
        .arg(source));
}

#[test]
fn compiles_as_c_and_cpp() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (compiler, standard, name) in
        [("cc", "-std=c99", "header.c"), ("cc", "-std=c17", "header.c"), ("c++", "-std=c++11", "header.cpp")]
    {
        if available(compiler, "compiling mdr.h") {
            let source = folder.path().join(name);
            fs::write(&source, "#include \"mdr.h\"\n#include \"mdr.h\"\nint main(void) { return 0; }\n").expect(name);
            compile(compiler, standard, &source);
        }
    }
}

/// What cbindgen makes of `ffi/types.rs`, which it reads alone, every type with the prefix `Witness`.
fn witness() -> String {
    let config = cbindgen::Config {
        language: cbindgen::Language::C,
        export: cbindgen::ExportConfig {
            include: ["MdrStatus", "MdrPixelType", "MdrProgress", "MdrReadPlane", "MdrWritePlane", "MdrModel"]
                .map(String::from)
                .to_vec(),
            prefix: Some("Witness".into()),
            ..Default::default()
        },
        enumeration: cbindgen::EnumConfig {
            rename_variants: cbindgen::RenameRule::QualifiedScreamingSnakeCase,
            ..Default::default()
        },
        ..Default::default()
    };
    let bindings = cbindgen::Builder::new().with_src(repository("src/ffi/types.rs")).with_config(config).generate();
    let mut text = Vec::new();
    bindings.expect("cbindgen reads types.rs").write(&mut text);
    String::from_utf8(text).expect("C in UTF-8")
}

#[test]
fn two_generators_agree() {
    let witness = witness();
    // The names of the numbers come from the witness, so that a number which safer-ffi lost is missed, and their
    // count from the header, so that one which cbindgen lost is missed too.
    let constants = |text: &str, prefix: &str| -> Vec<String> {
        let lines = text.lines().map(str::trim).filter(|line| line.starts_with(prefix));
        lines.filter_map(|line| line.split_once(" = ").map(|(name, _)| name.to_owned())).collect()
    };
    let mut source = format!("#include \"mdr.h\"\n{witness}\n");
    for (ours, theirs) in [("MDR_STATUS_", "WITNESS_MDR_STATUS_"), ("MDR_PIXEL_TYPE_", "WITNESS_MDR_PIXEL_TYPE_")] {
        let names = constants(&witness, theirs);
        assert!(!names.is_empty(), "no {theirs} in\n{witness}");
        assert_eq!(names.len(), constants(&header(), ours).len(), "{ours}");
        for name in names {
            let ours = name.replace("WITNESS_", "");
            source += &format!("_Static_assert((int){ours} == (int){name}, \"{ours}\");\n");
        }
    }
    for name in ["MdrStatus", "MdrPixelType"] {
        source += &format!(
            "_Static_assert(sizeof({name}_t) == sizeof(Witness{name}), \"size of {name}\");\n\
             _Static_assert(_Alignof({name}_t) == _Alignof(Witness{name}), \"alignment of {name}\");\n\
             _Static_assert(_Generic(({name}_t)0, Witness{name}: 1, default: 0), \"type of {name}\");\n"
        );
    }
    source += &format!(
        "_Static_assert(MDR_ABI_VERSION == {MDR_ABI_VERSION}, \"ABI version\");\n\
         _Static_assert(_Generic(&mdr_restore, MdrStatus_t (*)(MdrModel_t const *, void const *, MdrPixelType_t, \
         char const *, size_t const *, int64_t const *, char const *, WitnessMdrProgress, void *, void *, \
         MdrPixelType_t, size_t): 1, default: 0), \"progress callback\");\n\
         _Static_assert(_Generic(&mdr_restore_planes, MdrStatus_t (*)(MdrModel_t const *, WitnessMdrReadPlane, \
         MdrPixelType_t, char const *, size_t const *, char const *, WitnessMdrProgress, void *, \
         WitnessMdrWritePlane, MdrPixelType_t): 1, default: 0), \"plane callbacks\");\n\
         int main(void) {{ return 0; }}\n"
    );

    if available("cc", "comparing the layouts of two generators") {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("witness.c");
        fs::write(&path, source).expect("witness.c");
        compile("cc", "-std=c11", &path);
    }
}

/// A function that returned a status without `guard` would let a panic abort the host program.
#[test]
fn every_function_that_can_fail_is_guarded() {
    let source = fs::read_to_string(repository("src/ffi/mod.rs")).expect("the source of the interface");
    let functions = source.matches("-> MdrStatus {\n").count();
    assert_eq!(functions, header().matches("MdrStatus_t\nmdr_").count(), "functions of the source and of the header");
    assert_eq!(functions, source.matches("-> MdrStatus {\n    guard(|| {\n").count(), "guarded functions");
}
