"""The workflows, and what each command on them needs before their long imports: it ends, speaks and reads well."""

from tasks.flyte.console import shorten_help, speak
from tasks.flyte.ending import end_well
from tasks.flyte.inputs import read_strictly
from tasks.flyte.local_cache import check_results

end_well()
speak()
shorten_help()
read_strictly()
check_results()
