//! A machine on which the commands of the documents are typed as they stand there: a copy of this one's files, with a node, the namespaces
//! `web` and `db` of the README, a host `out` that mtlsd does not know, and the unit `nginx.service` on the node.

use std::collections::BTreeSet;

use mtls_documents::{Page, chunks, pages};

use crate::copy::{Copy, Running, Said};
use crate::lab::{cgroup, eventually, program_beside_the_test};
use crate::slow;

/// Namespaces, wire and addresses. `sudo` is not on every machine; `$1` is the cgroup.
const PREPARE: &str = r#"
set -e
printf '#!/bin/sh\nexec "$@"\n' >/usr/local/bin/sudo
chmod 755 /usr/local/bin/sudo
mkdir -p /root/source/target/release /etc/mtlsd /var/log/mtlsd "$1/db" "$1/out" "$1/web" "$1/system.slice/nginx.service"
umount -l /run/netns 2>/dev/null || true
rm -rf /run/netns
ip netns add node
ip -n node link set lo up
ip -n node link add br0 type bridge
ip -n node addr add 10.0.0.1/24 dev br0
ip -n node link set br0 up
number=2
for name in web db out; do
    ip netns add $name
    ip -n $name link set lo up
    ip -n node link add to-$name type veth peer name eth0 netns $name
    ip -n node link set to-$name master br0 up
    ip -n $name addr add 10.0.0.$number/24 dev eth0
    ip -n $name addr add fd00::$number/64 dev eth0 nodad
    ip -n $name link set eth0 up
    number=$((number + 1))
done
"#;

/// See the module.
#[derive(Debug)]
pub struct Machine {
    copy: Copy,
    pages: Vec<Page>,
    programs: Vec<Running>,
    typed: BTreeSet<(String, String)>,
    said: Vec<(String, String)>,
}

impl Machine {
    /// With the programs that were built, in `/root/source` as a checkout has them.
    ///
    /// # Panics
    /// If it cannot be made.
    #[track_caller]
    #[expect(clippy::new_without_default, reason = "it changes the machine")]
    pub fn new() -> Self {
        let copy = Copy::new();
        let cgroup = copy.cgroup.display().to_string();
        copy.run(&["sh", "-c", PREPARE, "sh", &cgroup]).ok();
        copy.put(&program_beside_the_test("mtlsd"), "/root/source/target/release/mtlsd");
        copy.put(&program_beside_the_test("probe"), "/usr/local/bin/probe");
        let pages = pages().expect("the checkout is whole");
        Self { copy, pages, programs: Vec::new(), typed: BTreeSet::new(), said: Vec::new() }
    }

    /// Types the command of a page that begins like this, as root on the node.
    ///
    /// # Panics
    /// If the page has no such command.
    #[track_caller]
    pub fn types(&mut self, page: &str, begins: &str) -> Said {
        let command = self.command(page, begins);
        let said = self.does(&command);
        println!("\n{page}\n$ {command}\n{}", said.text);
        self.typed.insert((page.to_owned(), begins.to_owned()));
        self.said.push((page.to_owned(), said.text.clone()));
        said
    }

    /// The same for a command that goes on, such as a daemon.
    #[track_caller]
    pub fn leaves_running(&mut self, page: &str, begins: &str) {
        let command = self.command(page, begins);
        self.starts("node", None, &format!("exec {}", command.trim_start_matches("sudo ")));
        self.typed.insert((page.to_owned(), begins.to_owned()));
    }

    #[track_caller]
    fn command(&self, page: &str, begins: &str) -> String {
        let found = self.pages.iter().find(|one| one.path == page);
        let found = found.unwrap_or_else(|| panic!("there is no {page}"));
        let scripts = found.blocks().into_iter().filter_map(|block| block.script());
        let mut commands = scripts.flat_map(|script| chunks(&script));
        commands
            .find(|one| one.starts_with(begins))
            .unwrap_or_else(|| panic!("{page} has no command {begins}"))
    }

    /// A snippet of configuration of a page, by its number from 0.
    #[track_caller]
    pub fn snippet(&self, page: &str, number: usize) -> String {
        let found = self.pages.iter().find(|one| one.path == page);
        let blocks = found.map(Page::blocks).unwrap_or_default();
        let mut snippets = blocks.into_iter().filter(|block| block.language == "yaml");
        snippets.nth(number).unwrap_or_else(|| panic!("{page} has no snippet {number}")).text
    }

    /// Checks that what a page shows as printed was printed, but for words with digits (addresses, serials, times). Lines with `…` are
    /// cut there.
    ///
    /// # Panics
    /// If a line was not.
    #[track_caller]
    pub fn has_said_what_is_shown(&self, page: &str) {
        let said = self.said.iter().filter(|(path, _)| path == page).flat_map(|(_, text)| text.lines());
        let said: Vec<_> = said.map(without_numbers).collect();
        let found = self.pages.iter().find(|one| one.path == page);
        let blocks = found.map(Page::blocks).unwrap_or_default();
        let shown =
            blocks.iter().filter(|block| block.language == "text").flat_map(|block| block.text.lines());
        let shown: Vec<_> = shown.filter(|line| !line.trim().is_empty() && *line != "…").collect();
        assert!(!shown.is_empty(), "{page} shows nothing");
        for line in shown {
            let wanted = without_numbers(line.split('…').next().unwrap_or_default());
            assert!(said.iter().any(|one| one.starts_with(&wanted)), "{page} shows, and nobody said: {line}");
        }
    }

    /// What the documents do not say, as root on the node.
    pub fn does(&self, script: &str) -> Said {
        self.on("node", script)
    }

    /// The same in a namespace, outside of every cgroup of a workload.
    pub fn on(&self, namespace: &str, script: &str) -> Said {
        let net = format!("--net=/run/netns/{namespace}");
        self.copy.run(&["nsenter", &net, "sh", "-c", &format!("cd /root/source && {script}")])
    }

    /// The same as a process of a workload, in its cgroup.
    pub fn within(&self, namespace: &str, cgroup: &str, script: &str) -> Said {
        let join = format!("echo $$ >{}/{cgroup}/cgroup.procs", self.copy.cgroup.display());
        self.on(namespace, &format!("{join} && {script}"))
    }

    /// Starts a program that goes on, in a namespace and in a cgroup below the one of the workloads.
    pub fn starts(&mut self, namespace: &str, cgroup: Option<&str>, script: &str) {
        let join =
            cgroup.map(|name| format!("echo $$ >{}/{name}/cgroup.procs && ", self.copy.cgroup.display()));
        let script = format!("cd /root/source && {}{script}", join.unwrap_or_default());
        let net = format!("--net=/run/netns/{namespace}");
        self.programs.push(self.copy.spawn(&["nsenter", &net, "sh", "-c", &script]));
    }

    /// Adds to a file.
    #[track_caller]
    pub fn appends(&self, path: &str, text: &str) {
        self.copy.run(&["sh", "-c", r#"printf %s "$2" >>"$1""#, "sh", path, text]).ok();
    }

    /// Writes a file whose directory is made.
    #[track_caller]
    pub fn writes(&self, path: &str, text: &str) {
        self.copy.write(path, text);
    }

    /// The keys that only a lab needs: where its workloads are.
    pub fn lab_keys(&self) -> String {
        format!("cgroup_root: {}\n", self.copy.cgroup.display())
    }

    /// Waits until a command succeeds.
    #[track_caller]
    pub fn waits_for(&self, what: &str, script: &str) {
        eventually(slow::limit(30), what, || self.does(script).good.then_some(()));
    }

    /// What was typed, by page and beginning.
    pub fn typed(&self) -> &BTreeSet<(String, String)> {
        &self.typed
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.programs.clear();
        cgroup::destroy(&self.copy.cgroup);
    }
}

/// One space between words, and `#` for those with digits.
fn without_numbers(line: &str) -> String {
    let word =
        |word: &str| if word.chars().any(|c| c.is_ascii_digit()) { "#".to_owned() } else { word.to_owned() };
    line.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}
