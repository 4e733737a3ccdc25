# Passes the output of tests on, and ends it with the seconds of each module: lines `test a::b::c ... ok <1.234s>`.
{ print; fflush() }
/^test .* <[0-9.]+s>$/ {
  seconds = substr($NF, 2) + 0
  module = $2
  if (!sub(/::[^:]*$/, "", module)) module = "(top)"
  of[module] += seconds
  tests[module]++
  all += seconds
  told = 1
}
END {
  if (!told) { print "\nseconds of modules: the test harness tells none"; exit }
  printf "\nseconds of tests, by module (%.0f s in all, on all threads together):\n", all
  fflush()
  for (module in of) printf "%8.1f s  %4d tests  %s\n", of[module], tests[module], module | "sort -rn"
}
