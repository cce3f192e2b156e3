//! One list of benchmarks that can be run in two ways: by criterion's clock, or one of them under a counter of
//! instructions.

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Duration;

use criterion::Criterion;

/// Operations before the counted ones: what happens only once (tables of the crypto library, its random numbers)
/// is none of theirs.
const WARM_UP: u32 = 3;

pub struct Suite(Way);

enum Way {
    Clock(Box<Criterion>),
    /// `--count NAME`: runs the benchmark of that name and prints how many operations were counted.
    Count {
        wanted: String,
        found: bool,
    },
}

impl Suite {
    pub fn from_args() -> Self {
        let mut args = std::env::args().skip_while(|arg| arg != "--count");
        if args.next().is_some() {
            return Self(Way::Count { wanted: args.next().unwrap_or_default(), found: false });
        }
        let criterion = Criterion::default()
            .without_plots()
            .warm_up_time(Duration::from_secs(1))
            .measurement_time(Duration::from_secs(3))
            .configure_from_args();
        Self(Way::Clock(Box::new(criterion)))
    }

    /// Adds a benchmark. `prepare` makes the operation and is called only when this benchmark runs; `times`: how
    /// many operations are counted.
    pub fn bench<T, O: FnMut() -> T>(&mut self, name: &str, times: u32, prepare: impl Fn() -> O) {
        match &mut self.0 {
            Way::Clock(criterion) => {
                let mut operation = None;
                criterion.bench_function(name, |bencher| {
                    let operation = operation.get_or_insert_with(&prepare);
                    bencher.iter(operation);
                });
            }
            Way::Count { wanted, found } if wanted == name => {
                *found = true;
                let mut operation = prepare();
                let mut once = || drop(black_box(operation()));
                repeat_uncounted(&mut once);
                repeat_counted(&mut once, times);
                println!("{times}");
            }
            Way::Count { .. } => {}
        }
    }

    pub fn finish(self) -> ExitCode {
        match self.0 {
            Way::Clock(criterion) => criterion.final_summary(),
            Way::Count { found: true, .. } => {}
            Way::Count { wanted, .. } => {
                eprintln!("there is no benchmark {wanted:?}; --list shows their names");
                return ExitCode::FAILURE;
            }
        }
        ExitCode::SUCCESS
    }
}

fn repeat_uncounted(once: &mut dyn FnMut()) {
    for _ in 0..WARM_UP {
        once();
    }
}

/// xtask tells valgrind to count inside this function, which it knows by its name.
#[inline(never)]
fn repeat_counted(once: &mut dyn FnMut(), times: u32) {
    for _ in 0..times {
        once();
    }
}
