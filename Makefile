# make test    installs what is missing and runs every tier of tests
# make fiji    builds the plug-in for Fiji and ImageJ: plugins/fiji/target/MDR_Restore-*.jar
# make lint    formatting and lints, warnings as errors
# make setup   just installs: system packages where it may, and a Python environment of its own
#
# The Python environment is for libtorch (mdr-train links to it) and for the tests that compare mdr with
# scikit-image, onnx and onnxruntime. VENV and CARGO_TARGET_DIR may lie outside the checkout, to be shared.

VENV ?= $(CURDIR)/.venv
PYTHON ?= python3
STAMP := $(VENV)/installed-$(shell cksum < training/requirements.txt | tr ' ' -)

export LIBTORCH_USE_PYTORCH = 1
export PATH := $(VENV)/bin:$(PATH)
export MDR_PYTHON := $(VENV)/bin/python
# A tool that is missing now fails a test instead of skipping it.
export MDR_REQUIRE_TOOLS := 1

# Where cargo puts what it builds.
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
MAVEN := mvn --quiet --batch-mode --file plugins/fiji/pom.xml

.PHONY: test test-engine test-training test-fiji fiji lint setup system system-fiji

test: test-engine test-training test-fiji

test-engine: setup
	cargo test --features headers

test-training: setup
	cargo test -p mdr-train --features mdr/headers

# The shim first alone, then with ImageJ, without a display and with one.
test-fiji: system-fiji
	cargo build --features headers
	cargo test -p mdr-jni
	cargo build -p mdr-jni
	$(MAVEN) -Dnatives=$(TARGET)/debug verify

fiji: system-fiji
	cargo build --profile dist
	cargo build --profile dist -p mdr-jni
	$(MAVEN) -Dnatives=$(TARGET)/dist -DskipTests clean package
	@ls -1 plugins/fiji/target/MDR_Restore-*.jar

lint: setup
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --features headers -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --features headers
	ruff check
	ruff format --check

setup: system $(STAMP)

$(STAMP): training/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r training/requirements.txt
	touch $@

# The C programs of tests/c need a C and a C++ compiler, and valgrind watches them.
system:
	@missing=""; \
	command -v cc >/dev/null || missing="$$missing gcc"; \
	command -v c++ >/dev/null || missing="$$missing g++"; \
	command -v valgrind >/dev/null || missing="$$missing valgrind"; \
	$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || missing="$$missing python3-venv"; \
	$(INSTALL)

# A JDK with AWT, Maven, and a display for ImageJ's windows.
system-fiji:
	@missing=""; \
	command -v javac >/dev/null || missing="$$missing default-jdk"; \
	command -v mvn >/dev/null || missing="$$missing maven"; \
	command -v xvfb-run >/dev/null || missing="$$missing xvfb"; \
	command -v xauth >/dev/null || missing="$$missing xauth"; \
	$(INSTALL)

# Installs the packages that `missing` names, or asks for them where it may not.
define INSTALL
[ -z "$$missing" ] && exit 0; \
if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing; \
elif command -v apt-get >/dev/null && sudo -n true 2>/dev/null; then \
	sudo apt-get update -qq && sudo apt-get install -qq -y --no-install-recommends $$missing; \
else \
	echo "please install:$$missing" >&2; exit 1; \
fi
endef
