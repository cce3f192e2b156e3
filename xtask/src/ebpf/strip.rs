//! Takes DWARF out of the object: the loader needs only BTF, and DWARF is most of the bytes.

use anyhow::{Context, Result};
use object::build::elf::{Builder, SectionData};

/// The ELF object without its `.debug_*` sections and their relocations. BTF and BTF.ext stay.
pub fn debug_sections(object: &[u8]) -> Result<Vec<u8>> {
    let mut elf = Builder::read(object).context("not an ELF object")?;
    for section in &mut elf.sections {
        let name = section.name.to_string();
        if name.starts_with(".debug_") || name.starts_with(".rel.debug_") {
            section.delete = true;
        }
    }
    // LLVM puts the names of sections and of symbols into one table; the writer wants two.
    if !elf.sections.iter().any(|section| matches!(section.data, SectionData::SectionString)) {
        let names = elf.sections.add();
        names.name = b".shstrtab".as_slice().into();
        names.sh_type = object::elf::SHT_STRTAB;
        names.sh_addralign = 1;
        names.data = SectionData::SectionString;
    }
    let mut out = Vec::new();
    elf.write(&mut out).context("the ELF object cannot be written")?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sections(object: &[u8]) -> Vec<String> {
        Builder::read(object).unwrap().sections.iter().map(|section| section.name.to_string()).collect()
    }

    fn sample() -> Vec<u8> {
        let mut elf = Builder::new(object::Endianness::Little, true);
        elf.header.e_type = object::elf::ET_REL;
        elf.header.e_machine = object::elf::EM_BPF;
        for (name, kind, data) in [
            (".shstrtab", object::elf::SHT_STRTAB, SectionData::SectionString),
            (".BTF", object::elf::SHT_PROGBITS, SectionData::Data(b"btf".as_slice().into())),
            (".debug_info", object::elf::SHT_PROGBITS, SectionData::Data(b"/home".as_slice().into())),
        ] {
            let section = elf.sections.add();
            section.name = name.into();
            section.sh_type = kind;
            section.data = data;
        }
        elf.set_section_sizes();
        let mut out = Vec::new();
        elf.write(&mut out).unwrap();
        out
    }

    #[test]
    fn dwarf_goes_and_btf_stays() {
        let before = sample();
        assert!(sections(&before).contains(&".debug_info".to_owned()));
        let after = debug_sections(&before).unwrap();
        let names = sections(&after);
        assert!(names.contains(&".BTF".to_owned()), "{names:?}");
        assert!(!names.iter().any(|name| name.contains("debug")), "{names:?}");
    }

    #[test]
    fn what_is_not_elf_is_refused() {
        assert!(debug_sections(b"not an object").is_err());
    }
}
