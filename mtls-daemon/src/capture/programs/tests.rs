//! What the committed object may not have: a kernel TLS socket in a sockmap sends plaintext on Linux 6.12.

use aya_obj::generated::{bpf_func_id as Helper, bpf_map_type as MapType};
use aya_obj::{Object, ProgramSection};

use super::OBJECT;

/// Helpers that put a socket into a sockmap, or move bytes through one.
const SOCKMAP_HELPERS: [Helper; 6] = [
    Helper::BPF_FUNC_sock_map_update,
    Helper::BPF_FUNC_sock_hash_update,
    Helper::BPF_FUNC_sk_redirect_map,
    Helper::BPF_FUNC_sk_redirect_hash,
    Helper::BPF_FUNC_msg_redirect_map,
    Helper::BPF_FUNC_msg_redirect_hash,
];

/// `BPF_JMP | BPF_CALL`; a helper's number is the immediate value unless the source register says otherwise.
const CALL: u8 = 0x85;

fn object() -> Object {
    Object::parse(OBJECT).unwrap()
}

#[test]
fn the_only_sockmap_holds_listeners_which_never_carry_a_byte() {
    let sockmaps = [MapType::BPF_MAP_TYPE_SOCKMAP as u32, MapType::BPF_MAP_TYPE_SOCKHASH as u32];
    let object = object();
    let found: Vec<_> = object
        .maps
        .iter()
        .filter(|(_, map)| sockmaps.contains(&map.map_type()))
        .map(|(name, _)| name.as_str())
        .collect();
    // `Capture` puts the daemon's own listeners into it, and nothing else: for sk_lookup to choose them.
    assert_eq!(found, ["LISTENERS"]);
}

#[test]
fn no_program_runs_on_the_bytes_of_a_socket_in_a_sockmap() {
    let object = object();
    assert!(object.programs.contains_key(super::NETNS_PROGRAM), "the object is the one that is loaded");
    for (name, program) in &object.programs {
        let on_bytes = matches!(program.section, ProgramSection::SkMsg | ProgramSection::SkSkbStream { .. });
        assert!(!on_bytes, "{name}: {:?}", program.section);
    }
}

#[test]
fn no_program_puts_a_socket_into_a_sockmap_or_redirects_through_one() {
    let mut calls = 0;
    for function in object().functions.values() {
        for instruction in &function.instructions {
            if instruction.code == CALL && instruction.src_reg() == 0 {
                calls += 1;
                let forbidden = SOCKMAP_HELPERS.iter().find(|helper| **helper as i32 == instruction.imm);
                assert!(forbidden.is_none(), "{}: {forbidden:?}", function.name);
            }
        }
    }
    assert!(calls > 0, "the instructions were read");
}

#[test]
fn every_program_is_attached_where_its_section_in_the_object_says() {
    use aya_obj::generated::bpf_attach_type as Kernel;
    let object = object();
    let every = super::CGROUP_PROGRAMS.iter().chain(&super::DIRECT_PROGRAMS).chain([&super::NETNS_PROGRAM]);
    for name in every {
        let wanted = match &object.programs[*name].section {
            ProgramSection::CgroupSockAddr { attach_type, .. } => {
                let kernel: Kernel = (*attach_type).into();
                kernel as u32
            }
            ProgramSection::CgroupSock { attach_type } => {
                let kernel: Kernel = (*attach_type).into();
                kernel as u32
            }
            ProgramSection::CgroupSockopt { attach_type, .. } => {
                let kernel: Kernel = (*attach_type).into();
                kernel as u32
            }
            ProgramSection::SockOps => Kernel::BPF_CGROUP_SOCK_OPS as u32,
            ProgramSection::SkLookup => Kernel::BPF_SK_LOOKUP as u32,
            ProgramSection::CgroupSkb { attach_type: Some(attach_type) } => {
                let kernel: Kernel = (*attach_type).into();
                kernel as u32
            }
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(super::attach_type(name) as u32, wanted, "{name}");
    }
}
