#!/bin/bash
# Keeps PATH in .path, and adds to .env what jobs may need from the environment of this moment.

known=(LANG JAVA_HOME ANT_HOME M2_HOME ANDROID_HOME ANDROID_SDK_ROOT GRADLE_HOME NVM_BIN NVM_PATH LD_LIBRARY_PATH PERL5LIB)

[ -f .env ] || : >.env
for name in "${known[@]}"; do
    if [ -n "${!name}" ] && ! grep -q "^$name=" .env; then
        echo "$name=${!name}" >>.env
    fi
done
echo "$PATH" >.path
