#!/bin/bash
# Waits so many seconds.
sleep "$1"
