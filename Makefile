# What there is to do here; `make help` lists it.

SHELL := /bin/bash
.SHELLFLAGS := -euc
TARGET := $(or $(CARGO_TARGET_DIR),target)

# A soak's simulated histories, its random histories on real servers, and how often each kill loop goes round.
SEEDS ?= 1000
HISTORIES ?= 20
ROUNDS ?= 200
# And how long traffic, faults and maintenance go on.
MINUTES ?= 60

# How long each fuzz target runs.
SECONDS ?= 60

.PHONY: help demo quick test bench soak mutations regress fuzz console

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

demo: ## The whole story on a private, throw-away PostgreSQL
	@tests/install demo
	cargo build --locked --bin afterimage
	@$(TARGET)/debug/afterimage demo

quick: ## Format, lints, unit tests, layers and licences: what to run before every commit
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo test --locked --lib --bins
	cargo test --locked --test it -- architecture:: dependencies::

test: ## Everything that CI runs, against real servers
	@tests/install test
	@$(MAKE) --no-print-directory quick
	cargo test --locked

bench: ## Measure against PostgreSQL's own programs; one part: make bench ONLY=capture
	@tests/install demo
	cargo bench --locked --bench speed -- $(ONLY)

soak: ## Simulated and real histories and kill loops for long: make soak SEEDS=10000; some alone: ONLY=simulation, ONLY=endurance
ifeq ($(filter-out simulation,$(ONLY)),)
	AFTERIMAGE_SOAK_SEEDS=$(SEEDS) cargo test --locked --lib -- --nocapture simulation::tests::soak
endif
ifneq ($(ONLY),simulation)
	@tests/install test
	@cargo test --locked --test it -- --list soak | grep -q ': test$$' || { echo "there is no soak test"; exit 1; }
	AFTERIMAGE_SOAK_SEEDS=$(HISTORIES) AFTERIMAGE_SOAK_ROUNDS=$(ROUNDS) AFTERIMAGE_SOAK_MINUTES=$(MINUTES) \
		cargo test --locked --test it -- --include-ignored --test-threads=1 --nocapture $(or $(ONLY),soak)
endif

mutations: ## Break the program on purpose, and see who notices: make mutations SEEDS=300
	@tests/mutations/run $(SEEDS) $(ONLY)

regress: ## PostgreSQL's regression suites and its modules' with an archiver; make test runs a part of them
	@tests/install regress
	cargo test --locked --test it -- --ignored --nocapture regress::

fuzz: ## Feed decoders and codecs with noise: make fuzz SECONDS=600; one target: make fuzz ONLY=values
	@tests/fuzz/run $(SECONDS) $(ONLY)

console: ## Build the console's pages anew, after a change in src/console/web; needs Node
	cd src/console/web && npm ci --ignore-scripts && npm run check && npm run build
