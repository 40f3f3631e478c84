# make test    installs what is missing and runs every tier of tests
# make test-arm64 runs the kernels of the convolutions for arm64, under qemu
# make fiji    builds the plug-in for Fiji and ImageJ: plugins/fiji/target/MDR_Restore-*.jar
# make lint    formatting and lints, warnings as errors
# make setup   just installs: system packages where it may, and a Python environment of its own
# make napari-screenshot renews the picture of napari in the README
#
# The Python environment is for libtorch (mdr-train links to it) and for the tests that compare mdr with
# scikit-image, onnx and onnxruntime. VENV and CARGO_TARGET_DIR may lie outside the checkout, to be shared.

VENV ?= $(CURDIR)/.venv
PYTHON ?= python3
STAMP := $(VENV)/installed-$(shell cksum < training/requirements.txt | tr ' ' -)

# napari gets an environment of its own, and a screen to draw on.
NAPARI := plugins/napari
NAPARI_VENV ?= $(VENV)-napari
NAPARI_STAMP := $(NAPARI_VENV)/installed-$(shell cksum < $(NAPARI)/requirements-test.txt | tr ' ' -)
NAPARI_PACKAGES := xvfb xauth libegl1 libgl1 libgl1-mesa-dri libopengl0 libxkbcommon-x11-0 libdbus-1-3 \
	libxcb-cursor0 libxcb-icccm4 libxcb-image0 libxcb-keysyms1 libxcb-render-util0 libxcb-xinerama0 libxcb-shape0 \
	libxcb-randr0 libfontconfig1 fonts-dejavu-core
BUILT := $(abspath $(or $(CARGO_TARGET_DIR),target))/debug

export LIBTORCH_USE_PYTORCH = 1
export PATH := $(VENV)/bin:$(PATH)
export MDR_PYTHON := $(VENV)/bin/python
# A tool that is missing now fails a test instead of skipping it.
export MDR_REQUIRE_TOOLS := 1

# Where cargo puts what it builds.
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
MAVEN := mvn --quiet --batch-mode --file plugins/fiji/pom.xml

.PHONY: test test-engine test-arm64 test-training test-napari test-fiji napari-screenshot fiji lint setup system \
	system-fiji system-arm64

test: test-engine test-training test-napari test-fiji

test-engine: setup
	cargo test --features headers

test-training: setup
	cargo test -p mdr-train --features mdr/headers

# Of the whole engine that is what differs between processors; release, as qemu is slow.
ARM64 := aarch64-unknown-linux-gnu
test-arm64: system-arm64
	rustup target add $(ARM64)
	CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
	CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu" \
	cargo test --release -p mdr-kernels --target $(ARM64)

# With the library and the program that the engine's tests use.
test-napari: setup $(NAPARI_STAMP)
	cargo build --features headers
	MDR_LIBRARY=$(BUILT)/libmdr.so $(NAPARI_VENV)/bin/pip install --quiet --disable-pip-version-check \
		--no-build-isolation --no-deps --editable $(NAPARI)
	cd $(NAPARI) && $(NAPARI_VENV)/bin/python -m mypy
	cd $(NAPARI) && MDR=$(BUILT)/mdr MDR_LIBRARY=$(BUILT)/libmdr.so timeout 900 \
		xvfb-run -a -s "-screen 0 1400x900x24" $(NAPARI_VENV)/bin/python -m pytest -q tests $(PYTEST)

napari-screenshot:
	MDR_BLESS=1 $(MAKE) test-napari PYTEST="-k screenshot"

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

$(NAPARI_STAMP): $(NAPARI)/requirements-test.txt
	$(PYTHON) -m venv $(NAPARI_VENV)
	$(NAPARI_VENV)/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@

# The C programs of tests/c need a C and a C++ compiler, and valgrind watches them.
system:
	@missing=""; \
	command -v cc >/dev/null || missing="$$missing gcc"; \
	command -v c++ >/dev/null || missing="$$missing g++"; \
	command -v valgrind >/dev/null || missing="$$missing valgrind"; \
	if command -v dpkg >/dev/null; then \
		for package in $(NAPARI_PACKAGES); do dpkg -s $$package >/dev/null 2>&1 || missing="$$missing $$package"; done; \
	else command -v xvfb-run >/dev/null || missing="$$missing xvfb"; fi; \
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

# A linker and a C library for arm64, and an emulator.
system-arm64:
	@missing=""; \
	command -v aarch64-linux-gnu-gcc >/dev/null || missing="$$missing gcc-aarch64-linux-gnu libc6-dev-arm64-cross"; \
	command -v qemu-aarch64 >/dev/null || missing="$$missing qemu-user"; \
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
