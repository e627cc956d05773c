//! The bridge between Cargo and C: with the feature `rdma` it has CMake find the verbs libraries and build
//! the shim, then binds both. Without a native feature it does nothing.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "rdma")]
    if let Err(why) = verbs::build() {
        eprintln!("the feature \"rdma\" cannot be built: {why}");
        std::process::exit(1);
    }
}

#[cfg(feature = "rdma")]
mod verbs {
    use std::env;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    /// What the transport calls; the C names say what each is.
    const FUNCTIONS: &str = "tetrarch_.*\
        |ibv_(get_device_name|alloc_pd|dealloc_pd|dereg_mr|query_device|wc_status_str)\
        |ibv_(create|destroy)_(cq|comp_channel)|ibv_(get|ack)_cq_events?\
        |rdma_(get|free)_devices|rdma_(create|destroy)_(event_channel|id|qp)\
        |rdma_(bind_addr|resolve_addr|resolve_route|listen|connect|accept|reject|disconnect)\
        |rdma_(get|ack)_cm_event|rdma_migrate_id|rdma_set_option|rdma_get_src_port";
    /// Constants of enumerations that are not named by a function's type.
    const TYPES: &str = "ibv_(wc_status|wc_opcode|wc_flags|send_flags|wr_opcode|access_flags|gid_type|port_state|gid_entry)";
    /// Macros.
    const CONSTANTS: &str = "RDMA_OPTION_.*|IBV_.*|RDMA_CM_.*|RDMA_PS_.*";

    pub fn build() -> Result<(), String> {
        let variable = |name| env::var_os(name).map(PathBuf::from).ok_or(format!("no {name}"));
        let (crate_dir, out_dir) = (variable("CARGO_MANIFEST_DIR")?, variable("OUT_DIR")?);
        let (cmake_dir, shim_dir) = (crate_dir.join("../cmake"), crate_dir.join("native"));
        for dir in [&cmake_dir, &shim_dir] {
            println!("cargo::rerun-if-changed={}", dir.display());
        }
        let built = out_dir.join("cmake");
        let source = ["-S".into(), cmake_dir, "-B".into(), built.clone()];
        run(Command::new("cmake")
            .args(source)
            .args(["-DTETRARCH_VERBS=ON", "-DCMAKE_BUILD_TYPE=Release"]))?;
        run(Command::new("cmake").arg("--build").arg(&built))?;
        let include = link(&built)?;
        bind(&shim_dir.join("verbs.h"), &include, &out_dir.join("verbs.rs"))
    }

    fn run(command: &mut Command) -> Result<(), String> {
        let needs = "it needs cmake and a C compiler: apt-get install cmake gcc";
        let output = command.output().map_err(|why| format!("{command:?}: {why}; {needs}"))?;
        if output.status.success() {
            return Ok(());
        }
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Err(format!("{command:?} failed\n{}{}", text(&output.stdout), text(&output.stderr)))
    }

    /// Links what CMake built and found. Returns where the libraries' headers are.
    fn link(built: &Path) -> Result<String, String> {
        let file = built.join("verbs.txt");
        let found = std::fs::read_to_string(&file)
            .map_err(|why| format!("{} of CMake: {why}", file.display()))?;
        println!("cargo::rustc-link-search=native={}", built.display());
        println!("cargo::rustc-link-lib=static=tetrarch_verbs");
        let values = |name: &str| {
            let name = format!("{name}=");
            found.lines().filter_map(|line| line.strip_prefix(&name).map(String::from)).collect()
        };
        let libraries: Vec<String> = values("library");
        for library in libraries {
            if let Some(dir) = Path::new(&library).parent() {
                println!("cargo::rustc-link-search=native={}", dir.display());
            }
        }
        println!("cargo::rustc-link-lib=dylib=rdmacm");
        println!("cargo::rustc-link-lib=dylib=ibverbs");
        let includes: Vec<String> = values("include");
        includes.into_iter().next().ok_or("CMake found no headers".into())
    }

    fn bind(header: &Path, include: &str, into: &Path) -> Result<(), String> {
        let bindings = bindgen::Builder::default()
            .header(header.to_string_lossy())
            .clang_arg(format!("-I{include}"))
            .allowlist_function(FUNCTIONS)
            .allowlist_type(TYPES)
            .allowlist_var(CONSTANTS)
            .prepend_enum_name(false)
            .derive_default(true)
            .layout_tests(true)
            .generate_comments(false)
            .generate()
            .map_err(|why| format!("{why}; it needs libclang: apt-get install libclang-dev"))?;
        bindings.write_to_file(into).map_err(|why| format!("{}: {why}", into.display()))
    }
}
